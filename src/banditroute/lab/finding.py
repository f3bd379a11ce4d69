"""Where sources and scenarios are: files, or what is shipped."""

from __future__ import annotations

from pathlib import Path

from banditroute.core.errors import DatasetError
from banditroute.lab.environments import read_document
from banditroute.lab.exported import is_export, load_export
from banditroute.lab.loading import load_dataset
from banditroute.lab.scenario import Find, ScenarioSpec, is_scenario, load_scenario
from banditroute.lab.source import Source
from banditroute.lab.worlds import Worlds, load_environment_or_worlds, source_at

_PACKAGE = Path(__file__).resolve().parents[1]


def find_source(name: str | Path) -> Source:
    """As `find_source_or_worlds`, and of a family of worlds the first.

    Raises:
        DatasetError: there is none such, or it is wrong.
    """
    return source_at(find_source_or_worlds(name), 0)


def find_source_or_worlds(name: str | Path, *, prompts: bool = False) -> Source | Worlds:
    """A data set (.parquet, .csv), a file of an environment or of worlds (.yaml), a directory that `banditroute export` wrote, or
    what is shipped by its name. With `prompts`, a data set comes with its texts.

    Raises:
        DatasetError: there is none such, or it is wrong.
    """
    path = Path(name)
    if is_export(path):
        return load_export(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return load_environment_or_worlds(path)
    if path.suffix or path.is_file():
        return load_dataset(path, prompts=prompts)
    known = shipped("environments")
    if str(name) not in known:
        if path.is_dir():
            raise DatasetError(f"{name}: a directory, but not one that `banditroute export` wrote")
        raise DatasetError(f"{name}: neither a file nor a shipped environment ({', '.join(known) or 'none'})")
    return load_environment_or_worlds(known[str(name)])


def find_scenario(name: str | Path) -> ScenarioSpec | None:
    """A scenario file (.yaml), or a shipped one by its name; None where the name means something else.

    Raises:
        DatasetError: the file is a scenario, but wrong; or cannot be read.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") and not is_export(path):
        return load_scenario(path) if is_scenario(read_document(path)) else None
    known = shipped("scenarios")
    return load_scenario(known[str(name)]) if str(name) in known and not path.is_file() and not is_export(path) else None


def finder(scenario: Path | None, data: Path | None, *, prompts: bool = False) -> Find:
    """Finds the sources that a scenario names: data sets of these names in `data`, then what lies beside the scenario, then as
    `find_source_or_worlds`."""

    def find(name: str) -> Source | Worlds:
        places = [data / f"{name}{suffix}" for suffix in (".parquet", ".csv")] if data else []
        places += [scenario.parent / name] if scenario else []
        return find_source_or_worlds(
            next((place for place in places if place.is_file() or is_export(place)), name), prompts=prompts
        )

    return find


def shipped(what: str) -> dict[str, Path]:
    """The YAML files that come along, by name: "environments" or "scenarios"."""
    folders = (_PACKAGE / what, _PACKAGE.parents[1] / "simulations" / what)
    found = {file.stem: file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.yaml"))}
    return dict(sorted(found.items()))
