"""YAML by the line: one readable row per arm, which PyYAML's own block style cannot do."""

from __future__ import annotations

import textwrap

import yaml


def inline_yaml(value: object) -> str:
    """The value in flow style on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text.removesuffix("...\n").strip()


def comment(text: str) -> list[str]:
    """The text as comment lines."""
    return textwrap.wrap(text, width=118, initial_indent="# ", subsequent_indent="#   ")
