"""The demo: a real server, real traffic over a socket, and what it learns, live."""

from banditroute.demo.run import Report, run_demo

__all__ = ["Report", "run_demo"]
