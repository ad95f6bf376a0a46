"""Ends with 1 when the tetrace that this Python imports lacks what can be built on this system."""

from __future__ import annotations

import platform
import sys

from tetrace import _C
from tetrace.record import build

built, missing = _C.build_info(), build.left_out()
whole = built["nvtx"] and built["collector"] and built["cuda_headers"] and not missing
if platform.system() == "Linux" and not whole:
    sys.exit(f"left out of this build: {missing or built}")
