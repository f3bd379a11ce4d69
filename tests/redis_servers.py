"""Real Redis servers for tests: see `banditroute.bench.many.redis_server`."""

from banditroute.bench.many.redis_server import RedisServer, binaries, free_port, newest, serving

__all__ = ["RedisServer", "binaries", "free_port", "newest", "serving"]
