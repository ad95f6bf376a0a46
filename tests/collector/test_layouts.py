"""The collector's layouts of CUPTI's records are those of the headers of CUPTI that are installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
CHECK = CSRC / "collector" / "layouts_check.cpp"


def headers() -> dict[str, list[Path]]:
    """Folders to include by where CUPTI's headers are: in toolkits and in NVIDIA's packages. cuda.h may be elsewhere.

    TETRACE_CUPTI_HEADERS adds folders, one behind the other with `:`.
    """
    roots = [Path(path) / "nvidia" for path in sys.path]
    places = [Path(place) for place in os.environ.get("TETRACE_CUPTI_HEADERS", "").split(":") if place]
    places += [*Path("/usr/local").glob("cuda*/include"), *Path("/usr/local").glob("cuda*/extras/CUPTI/include")]
    places += [place for root in roots for place in root.glob("*/include")]
    cupti = [place for place in places if (place / "cupti_activity.h").exists()]
    cuda = [place for place in places if (place / "cuda.h").exists()]
    return {str(place): [place, *cuda[:1]] for place in cupti if cuda}


FOUND = headers()


@pytest.mark.skipif(not FOUND, reason="no headers of CUPTI here")
@pytest.mark.parametrize("place", FOUND)
def test_layouts_are_those_of_the_headers(place: str) -> None:
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    include = [part for folder in FOUND[place] for part in ("-isystem", str(folder))]
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", f"-I{CSRC}", *include, str(CHECK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
