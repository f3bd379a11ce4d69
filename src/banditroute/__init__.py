"""banditroute: which LLM is worth its price for this task?

`Router` decides and learns in this process; `Client` and `AsyncClient` talk to a server.
"""

from banditroute._version import __version__
from banditroute.router import Router

__all__ = ["Router", "__version__"]
