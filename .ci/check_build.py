"""Ends with 1 when the tetrace that this Python imports lacks what can be built on this system."""

from __future__ import annotations

import platform
import sys
from importlib.resources import files

from tetrace import _C
from tetrace.record import build

# What an HTML report is made of, and plotly's script for it.
for package, name in (("tetrace.report.html", "templates/report.html"), ("plotly", "package_data/plotly.min.js")):
    if not files(package).joinpath(name).is_file():
        sys.exit(f"left out of this build: {package}/{name}")

built, missing = _C.build_info(), build.left_out()
whole = built["nvtx"] and built["collector"] and built["cuda_headers"] and not missing
if platform.system() == "Linux" and not whole:
    sys.exit(f"left out of this build: {missing or built}")
