"""A YAML file's data, and the line of everything in it, so that a problem found later can be pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from banditroute.core.errors import ConfigError, ConfigProblem

Lines = Mapping[tuple[str | int, ...], int]


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """The data of a YAML file and the line of every key, counted from 1.

    Raises:
        ConfigError: it cannot be read, is no YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [ConfigProblem("", None, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), [ConfigProblem("", None, "is not UTF-8 text")]) from None
    lines: dict[tuple[str | int, ...], int] = {}
    problems: list[ConfigProblem] = []
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _walk(node, (), lines, problems, set())  # first: constructing resolves `<<` in place
        data = None if node is None else loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise ConfigError(str(path), [ConfigProblem("", line, f"is not YAML: {error.reason}")]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        if "mapping values are not allowed" in what:
            what += '; a value that holds ": " or ends in ":" needs quotes, such as store: "memory:"'
        raise ConfigError(
            str(path), [ConfigProblem("", None if mark is None else mark.line + 1, f"is not YAML: {what}")]
        ) from None
    if problems:
        raise ConfigError(str(path), problems)
    return data, lines


def _walk(
    node: yaml.Node,
    loc: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    problems: list[ConfigProblem],
    above: set[int],
) -> None:
    if id(node) in above:
        return  # an anchor that holds itself
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key)
            here = (*loc, name)
            lines[here] = key.start_mark.line + 1
            if name in seen and name != "<<":
                problems.append(ConfigProblem(".".join(map(str, here)), key.start_mark.line + 1, "is given twice"))
            seen.add(name)
            _walk(value, here, lines, problems, above | {id(node)})
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*loc, i)] = value.start_mark.line + 1
            _walk(value, (*loc, i), lines, problems, above | {id(node)})
