"""The version, as in pyproject.toml."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("banditroute")
except PackageNotFoundError:  # run from a source tree without an installation
    __version__ = "0+unknown"
