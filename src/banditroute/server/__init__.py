"""The gRPC server: services, the error table, health and the life of the process."""

from banditroute.server.lifecycle import ListenFailed, Server, ServerSettings, serve_until_signalled

__all__ = ["ListenFailed", "Server", "ServerSettings", "serve_until_signalled"]
