"""Offline simulation: the production router on recorded or calibrated outcomes, on a simulated clock."""
