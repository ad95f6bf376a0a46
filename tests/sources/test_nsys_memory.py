"""What reading an export claims of a process' memory: one that has claimed too much cannot fork where memory is counted."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources.exports import Export

DATA = Path(__file__).parent.parent / "data"
READS = """
import sys, tetrace
runs = [tetrace.load(path) for path in sys.argv[1:]]
print([run.rows("activities") for run in runs])
print(open("/proc/self/status").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_claims_what_the_rows_of_a_file_need(tmp_path: Path) -> None:
    # Rows with places that are far apart are not as many as that.
    sparse = Export().launch("gemm", call=(5, 8), runs=(10, 30)).launch("gemm", call=(40, 50), runs=(60, 70))
    path = sparse.sqlite(tmp_path / "sparse.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET _rowid_ = 1 << 40 WHERE start = 60")
        database.commit()
    paths = [path, DATA / "te4-bf16.sqlite", DATA / "te4-fp8.sqlite"]
    done = subprocess.run([sys.executable, "-c", READS, *paths], capture_output=True, text=True, check=True)
    found = re.search(r"VmPeak:\s+(\d+) kB", done.stdout)
    assert found is not None
    assert done.stdout.startswith("[2, ")
    # Of which allocators and libraries take 2 GB; for as many rows as a batch could have it would be 200 GB a file.
    assert int(found[1]) < 8 << 20
