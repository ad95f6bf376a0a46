"""An older libcupti records what the newest one here does: the collector knows the records of CUPTI 12 and 13.

TETRACE_CUPTI_LIBRARIES names the files, one behind the other with `:`; those of `pip download nvidia-cuda-cupti-cu12`, say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tetrace
from tests.gpu.driver_program import REPLAYS, ROUNDS
from tetrace.trace.trace import Trace

pytestmark = pytest.mark.gpu

PROGRAM = Path(__file__).parent / "driver_program.py"
OLDER = [path for path in os.environ.get("TETRACE_CUPTI_LIBRARIES", "").split(":") if path]
# As `tetrace record` on a machine that has this one alone.
WITH = """
import sys
from tetrace.cli.main import main
from tetrace.record import libcupti
if sys.argv[1]:
    libcupti.candidates = lambda *_: (sys.argv[1],)
sys.exit(main(sys.argv[2:]))
"""


@cache
def recorded(library: str, folder: Path) -> Trace:
    """The program under this libcupti; under the one that `tetrace record` takes where there is no name."""
    output = folder / f"{len(list(folder.iterdir()))}"
    words = ["record", "--collector", "cupti", "--steps", "all", "-o", str(output), "--", sys.executable, str(PROGRAM)]
    done = subprocess.run(
        [sys.executable, "-c", WITH, library, *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tetrace.load(output.with_suffix(".tetrace"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


ABOUT = ("kind", "name", "bytes", "grid_x", "grid_y", "block_x", "registers", "shared_bytes")


def activities(trace: Trace) -> Counter[tuple[object, ...]]:
    """What ran, by all that a record says of it but when, where and in which graph."""
    table = trace.tables["activities"].to_pandas()
    return Counter((*row[:-1], row[-1] != 0) for row in table[[*ABOUT, "graph_node"]].itertuples(index=False))


def calls(trace: Trace) -> Counter[tuple[str, str]]:
    table = trace.tables["calls"].to_pandas()
    return Counter(zip(table["kind"].astype(str), table["name"].astype(str), strict=True))


def test_everything_that_ran_is_there(folder: Path) -> None:
    found = Counter({about[1]: 0 for about in activities(recorded("", folder))})
    for about, count in activities(recorded("", folder)).items():
        found[about[1]] += count
    assert found == {
        "add_value(float*, int, float)": 2 * ROUNDS + REPLAYS,
        "memcpy HtoD": ROUNDS, "memcpy DtoH": ROUNDS, "memcpy DtoD": ROUNDS + REPLAYS, "memset": ROUNDS + REPLAYS,
    }  # fmt: skip


@pytest.mark.parametrize("library", OLDER)
def test_another_version_records_the_same(library: str, folder: Path) -> None:
    newest, older = recorded("", folder), recorded(library, folder)
    assert activities(older) == activities(newest)
    assert calls(older) == calls(newest)
    assert len(older.tables["graph_nodes"]) == len(newest.tables["graph_nodes"])
    assert older.metadata.notices == newest.metadata.notices


@pytest.mark.parametrize("library", ["", *OLDER])
def test_activities_follow_their_calls(library: str, folder: Path) -> None:
    """Calls and activities are in one clock, and are joined by the number that CUPTI gave them."""
    trace = recorded(library, folder)
    rows = trace.tables["activities"].to_pandas()
    rows = rows[rows["graph_node"] == 0].merge(
        trace.tables["calls"].to_pandas(), on=["process", "correlation"], suffixes=("", "_call")
    )
    assert len(rows) == 6 * ROUNDS
    assert (rows["start_ns"] > rows["start_ns_call"]).all()
    assert (rows["start_ns"] - rows["start_ns_call"] < 50_000_000).all()
    lengths = (rows["end_ns"] - rows["start_ns"]).to_numpy()
    assert np.all((lengths > 0) & (lengths < 50_000_000))
