"""Many machines: replicas that share a log in Redis, measured and hurt. Real servers, real processes, real kills."""
