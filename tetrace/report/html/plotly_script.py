"""plotly.js as a page carries it: the installed script, which sets up only the charts that reports draw.

plotly.min.js sets up some fifty kinds of charts when it is run, and nearly all that takes is for kinds that no report
draws: maps, WebGL, and probes of the JavaScript engine by exceptions. It is also parsed twice, for an engine takes a
function without parentheses around it for one that is called later. The edit is a few characters, in a form that has
been the same since plotly 6.0; a script of another form is taken as it is.
"""

from __future__ import annotations

import base64
import gzip
import re
from functools import cache
from importlib.resources import files

from tetrace.errors import UsageError
from tetrace.report.html.figures import NO_PLOTLY

DRAWN = ("bar", "heatmap", "icicle")  # scatter is part of plotly's core

_REGISTERED = re.compile(r"\.register\(\[((?:[\w$]+\(\),?)+)\]\)")
# A module that is another one (lib/bar.js), or the description of a kind of chart (traces/bar/index.js).
_MODULE = re.compile(
    r'var ([\w$]+)=[\w$]+\(\([\w$]+,[\w$]+\)=>\{"use strict";[\w$]+\.exports='
    r'(?:([\w$]+)\(\)\}|\{[^;]*?moduleType:"trace",name:"(\w+)")'
)
_FACTORY = re.compile(r'\(\) => \{\s*"use strict";var Plotly=.*\}(?=\)\);\s*$)', re.DOTALL)


@cache
def plotly_script() -> str:
    """The script, compressed, in base64. Raises `UsageError` without plotly."""
    try:
        script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ImportError, OSError) as error:
        raise UsageError(NO_PLOTLY) from error
    return base64.b64encode(gzip.compress(quick(script).encode(), 9, mtime=0)).decode("ascii")


def quick(script: str) -> str:
    """`script` with the kinds of charts in `DRAWN` registered and its factory in parentheses; or itself."""
    registered, factory = _REGISTERED.search(script), _FACTORY.search(script)
    if not registered or not factory:
        return script
    modules = {name: other or kind for name, other, kind in _MODULE.findall(script)}
    kept = [entry for entry in registered[1].split(",") if modules.get(modules.get(entry[:-2], "")) in DRAWN]
    if len(kept) != len(DRAWN):
        return script
    first, last = registered.span(1)
    begin, end = factory.span()
    return f"{script[:begin]}({script[begin:first]}{','.join(kept)}{script[last:end]}){script[end:]}"
