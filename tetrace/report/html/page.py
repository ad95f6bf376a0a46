"""Puts a page together: template, style, scripts, plotly and the data, in one text that asks no network for anything.

The data is JSON in a script of its own, in ASCII and with every `<` escaped, and only ever becomes text of elements.
plotly.js is 5 MB: it is embedded compressed, and unpacked by the browser once the first screen stands. A policy in the
page forbids it to connect to anything.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from tetrace.report.html.plotly_script import plotly_script
from tetrace.report.html.words import shortened

SCRIPTS = ("element.js", "table.js", "chart.js", "icicle.js", "blocks.js", "main.js")


def page(title: str, data: Mapping[str, Any]) -> str:
    """The page called `title`. `data` is what `main.js` reads: see `data.py`. Raises `UsageError` without plotly."""
    parts = {
        "TITLE": html.escape(shortened(title, 200)),
        "STYLE": _template("report.css"),
        "SCRIPT": "\n".join(_template(name) for name in SCRIPTS),
        "DATA": _json(data),
        "PLOTLY": plotly_script(),
    }
    # Placeholders of the template alone: what is put in may hold anything.
    words = re.split(r"\{\{(\w+)\}\}", _template("report.html"))
    return "".join(parts[word] if place % 2 else word for place, word in enumerate(words))


def _template(name: str) -> str:
    return (files("tetrace.report.html") / "templates" / name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """ASCII, so that no character needs an encoding, and no `<`, so that nothing ends the script it is in."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
