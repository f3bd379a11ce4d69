"""banditroute: which LLM is worth its price for this task?

`Router` decides and learns in this process; `Client` and `AsyncClient` talk to a server. Each is loaded when it is first asked
for: a client needs nothing of what `Router` does.
"""

import importlib as _importlib
import typing as _typing

from banditroute._version import __version__

__all__ = ["AsyncClient", "BanditrouteError", "Client", "RequestFailed", "Router", "__version__"]

_HOMES = {
    "AsyncClient": "banditroute.client",
    "BanditrouteError": "banditroute.core.errors",
    "Client": "banditroute.client",
    "RequestFailed": "banditroute.client",
    "Router": "banditroute.router",
}


if _typing.TYPE_CHECKING:
    from banditroute.client import AsyncClient, Client, RequestFailed
    from banditroute.core.errors import BanditrouteError
    from banditroute.router import Router
else:  # a checker of types would take any name for one of ours

    def __getattr__(name: str) -> _typing.Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(_importlib.import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
