"""banditroute: which LLM is worth its price for this task?

`Router` decides and learns in this process; `Client` and `AsyncClient` talk to a server.
"""

from banditroute._version import __version__
from banditroute.client import AsyncClient, Client, RequestFailed
from banditroute.core.errors import BanditrouteError
from banditroute.router import Router

__all__ = ["AsyncClient", "BanditrouteError", "Client", "RequestFailed", "Router", "__version__"]
