"""What a store knows, as Parquet for analysts and for the lab: decisions and feedback, resumable, with row counts."""
