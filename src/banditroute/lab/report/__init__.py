"""A scenario's results for people: one HTML page, and its pictures. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE, PICTURES = "report.html", "pictures"


def write_report(data: Mapping[str, Any], folder: Path) -> Path:
    """Writes the report on a scenario's JSON data (`ScenarioResult.to_json`, and nothing else is looked at) into a folder, and
    its pictures into `pictures` there. The same data give the same bytes. Returns the page.

    Raises:
        ImportError: the extra is not installed; it says so.
        OSError: the folder cannot be written.
    """
    try:
        from banditroute.lab.report.page import page_of  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("the report needs an extra: pip install 'banditroute[report]'") from error
    html, files = page_of(data)
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for name, png in files.items():
        (pictures / name).write_bytes(png)
    page = folder / PAGE
    page.write_text(html, encoding="utf-8")
    return page
