"""What is no recording, half of one or a broken one: one line that says so, or a report that says what is not there.

Never a traceback, never another file than before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tetrace
from tests.report.runs import rendered
from tests.sources.exports import Export, columns, process_id, thread_id
from tests.sources.test_nsys import everything, small
from tetrace.errors import InputError, UsageError
from tetrace.trace import store
from tetrace.trace.trace import Trace

DATA = Path(__file__).parent.parent / "data"
NOBODY = 65534
KERNEL, RUNTIME, NVTX = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"


def fingerprint(path: Path) -> dict[str, tuple[object, ...]]:
    """What must not change: the bytes and the time of `path`, or of all files in it, and who its neighbours are."""
    files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    neighbours = sorted(other.name for other in path.parent.iterdir())
    return {"neighbours": tuple(neighbours), **{str(file): _state(file) for file in files}}


def _state(file: Path) -> tuple[object, ...]:
    status = file.lstat()
    regular = file.is_file() and os.access(file, os.R_OK, effective_ids=True)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if regular else ""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_size, content


def load(path: Path) -> Trace:
    """The trace of `path`, which can also be reported; the input stays as it was."""
    before = fingerprint(path)
    try:
        trace = tetrace.load(path)
        rendered(tetrace.analyze(trace, steps="all"))
        rendered(tetrace.analyze(trace))
        return trace
    finally:
        assert fingerprint(path) == before


def error_of(path: Path, named: Path | None = None) -> str:
    """The message that `path` gives, without the name of the file in it."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{named or path}")
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{named or path}: ")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return small().sqlite(tmp_path / "run.sqlite")


class TestFiles:
    """What lies at the path."""

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"run\.sqlite: no such file or folder; give a \.tetrace folder, a Nsight"):
            tetrace.load(tmp_path / "run.sqlite")

    @pytest.mark.parametrize("name", ["run.sqlite", "run.nsys-rep", "run.json", "run"])
    def test_an_empty_file(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).touch()
        assert error_of(tmp_path / name).startswith("the file is empty (was the recording")

    @pytest.mark.parametrize("content", [b"SQLite", b"hello\n" * 99, b"\0" * 4096, b"\x7fELF", b"%PDF-1.4", b"PAR1"])
    def test_no_database(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "run.sqlite").write_bytes(content)
        assert error_of(tmp_path / "run.sqlite").startswith("the file does not begin as a SQLite database does; give")

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
    def test_a_database_that_was_cut_short(self, share: float, tmp_path: Path) -> None:
        whole = (DATA / "te4-fp8.sqlite").read_bytes()
        path = tmp_path / "run.sqlite"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert error_of(path).startswith("cannot be read as a Nsight Systems export (")
        assert "nsys export --type sqlite" in error_of(path)

    @pytest.mark.parametrize("size", [16, 17, 99, 100, 101, 512, 4095, 4096, 4097, 8192])
    def test_a_database_of_few_bytes(self, size: int, export: Path) -> None:
        export.write_bytes(export.read_bytes()[:size])
        assert "nsys export --type sqlite" in error_of(export)

    def test_a_database_of_something_else(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "run.sqlite") as database:
            database.execute("CREATE TABLE places (url TEXT)")
        assert error_of(tmp_path / "run.sqlite").startswith("no table StringIds, so nothing in it has a name; it is no")

    def test_a_database_without_tables(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "run.sqlite") as database:
            database.execute("PRAGMA user_version = 1")
        assert error_of(tmp_path / "run.sqlite").startswith("no table StringIds")

    @pytest.mark.parametrize(
        "name", ["a b#c?d%20e&f.sqlite", "läuft 走る.sqlite", "'\".sqlite", "a\nb.sqlite", "-.sqlite"]
    )
    def test_a_path_with_special_characters(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / "run=3 #?%41"
        path = small().sqlite(folder / name)
        assert load(path).metadata.source == name
        assert load(small().parquetdir(folder / f"{name}.d")).rows("activities") == 1

    def test_a_name_that_is_not_utf8(self, export: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(export.parent) + b"/\xff.sqlite"))
        try:
            export.rename(path)
        except OSError:
            pytest.skip("this file system wants UTF-8")
        trace = load(path)
        assert trace.metadata.source == "\N{REPLACEMENT CHARACTER}.sqlite"
        store.write(trace, export.parent / "run.tetrace")

    def test_a_link_to_a_recording(self, export: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(export)
        assert load(tmp_path / "link").rows("activities") == 1

    @pytest.mark.parametrize("target", ["nowhere", "link"])
    def test_a_link_to_nowhere(self, target: str, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / target)
        assert error_of(tmp_path / "link").startswith("no such file or folder")

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "run.sqlite")
        assert error_of(tmp_path / "run.sqlite").startswith("this is no file but a pipe; give")

    def test_a_device(self) -> None:
        with pytest.raises(InputError, match=r"^/dev/null: this is no file but a device; give"):
            tetrace.load("/dev/null")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert error_of(tmp_path).startswith("this folder holds neither a .tetrace nor the Parquet files of nsys")

    def test_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            tetrace.load(tmp_path / ("x" * 5000))


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that a user without rights may enter: pytest's own is for root alone."""
    with tempfile.TemporaryDirectory(prefix="tetrace-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything. What is needed must be imported: nobody may not read it either."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_the_command_line_ends_with_2_and_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe\nof two lines")
    cut = tmp_path / "cut.sqlite"
    cut.write_bytes((DATA / "te4-fp8.sqlite").read_bytes()[:500_000])
    for path in (cut, tmp_path / "pipe\nof two lines", tmp_path):
        done = subprocess.run([sys.executable, "-m", "tetrace", "report", path], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


class TestRights:
    """What may be read, and by whom."""

    def test_a_read_only_file_in_a_read_only_folder(self, public: Path) -> None:
        path = small().sqlite(public / "in" / "run.sqlite")
        whole = load(path)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        with as_nobody():
            assert load(path).tables.keys() == whole.tables.keys()

    def test_a_file_that_must_not_be_read(self, public: Path) -> None:
        path = small().sqlite(public / "run.sqlite")
        load(path)
        path.chmod(0)
        with as_nobody():
            assert error_of(path) == "not readable by this user; change its permissions or copy it"

    @pytest.mark.parametrize("mode", [0o000, 0o111])
    def test_a_folder_that_must_not_be_read(self, mode: int, public: Path) -> None:
        path = small().parquetdir(public / "run")
        load(path)
        path.chmod(mode)
        with as_nobody(), pytest.raises(InputError, match=r"/run: not readable by this user; change its permissions"):
            tetrace.load(path)

    def test_a_parquet_file_that_must_not_be_read(self, public: Path) -> None:
        path = small().parquetdir(public / "run")
        load(path)
        (path / f"{NVTX}.parquet").chmod(0)
        with as_nobody():
            assert "not readable by this user" in error_of(path, path / f"{NVTX}.parquet")

    def test_a_store_that_must_not_be_read(self, public: Path) -> None:
        store.write(tetrace.load(small().sqlite(public / "in" / "run.sqlite")), public / "run.tetrace")
        load(public / "run.tetrace")
        for name in ("metadata.json", "processes.parquet"):
            (public / "run.tetrace" / name).chmod(0)
            with as_nobody():
                assert "not readable by this user; change its" in error_of(public / "run.tetrace")
            (public / "run.tetrace" / name).chmod(0o644)


HOLD_LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
database.execute("BEGIN EXCLUSIVE")
if sys.argv[2] != "OFF":
    database.execute("DELETE FROM NVTX_EVENTS")
    database.execute("PRAGMA cache_spill")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path, journal: str) -> Iterator[int]:
    """Another process holds the database's lock for writing; its id."""
    command = [sys.executable, "-c", HOLD_LOCK, str(path), journal]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        yield writer.pid
        writer.communicate()


class TestWriters:
    """Somebody else is writing the export."""

    @pytest.mark.skipif(sys.platform != "linux", reason="who holds a lock is only known on Linux")
    def test_a_locked_database_is_read_and_says_so(self, export: Path) -> None:
        with locked(export, "OFF") as writer:
            trace = load(export)
        assert trace.rows("activities") == 1
        assert trace.metadata.notices == (
            f"process {writer} is writing to the export: rows may be missing; read it again when that has ended",
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="who holds a lock is only known on Linux")
    @pytest.mark.parametrize("journal", ["DELETE", "WAL"])
    def test_an_unfinished_transaction_says_so(self, journal: str, export: Path) -> None:
        with locked(export, journal):
            notices = load(export).metadata.notices
        if journal == "DELETE" or any(export.parent.glob("*-wal")):
            assert any("rows may be missing" in notice for notice in notices)

    def test_a_journal_that_was_left_behind(self, export: Path) -> None:
        (export.parent / "run.sqlite-journal").write_bytes(b"\0" * 512)
        assert load(export).metadata.notices == (
            "run.sqlite-journal lies beside the export, which was not finished: rows may be missing",
        )


class TestContent:
    """Exports that can be read and hold odd things."""

    def test_without_cuda_tables(self, tmp_path: Path) -> None:
        trace = load(Export().range("forward", 0, 9).sqlite(tmp_path / "run.sqlite"))
        assert trace.tables.keys() == {"processes", "threads", "ranges", "devices"}

    def test_without_ranges(self, tmp_path: Path) -> None:
        trace = load(small().without(NVTX).sqlite(tmp_path / "run.sqlite"))
        assert trace.tables.keys() == {"processes", "threads", "activities", "calls", "devices"}

    def test_with_strings_alone(self, tmp_path: Path) -> None:
        trace = load(Export().sqlite(tmp_path / "run.sqlite"))
        assert {name: trace.rows(name) for name in trace.tables} == {"processes": 0, "threads": 0, "devices": 0}

    def test_null_correlation_ids(self, tmp_path: Path) -> None:
        export = (
            Export().call("cudaLaunchKernel", 0, 1).call("cudaLaunchKernel", 1, 2).kernel("a", 2, 3).kernel("b", 4, 5)
        )
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name", "correlation") == [("a", -1), ("b", -1)]
        assert tetrace.analyze(trace, steps="all").attribution.links.call.tolist() == [-1, -1]

    def test_kernels_that_start_before_their_launch(self, tmp_path: Path) -> None:
        export = Export().launch("early", (100, 110), (50, 105)).launch("late", (120, 125), (115, 140))
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.wall_ns, breakdown.totals.busy_ns) == (90, 80)

    def test_times_that_go_backwards_count_as_empty(self, tmp_path: Path) -> None:
        export = Export().launch("a", (8, 5), (30, 10)).launch("b", (9, 10), (30, 40)).range("r", 7, 3)
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name", "start_ns", "end_ns") == [("b", 30, 40), ("a", 30, 30)]
        assert columns(trace, "calls", "start_ns", "end_ns") == [(8, 8), (9, 10)]
        assert trace.metadata.notices == (
            "1 activities end before they start; they count as empty",
            "1 calls end before they start; they count as empty",
            "1 ranges end before they start; they count as empty",
        )

    def test_activities_of_one_stream_that_overlap(self, tmp_path: Path) -> None:
        export = Export()
        for i in range(4):
            export.launch("k", (i, i + 1), (10 + i, 30 - i))
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.activity_ns, breakdown.totals.busy_ns, breakdown.totals.wall_ns) == (68, 20, 20)

    @pytest.mark.parametrize("time", [2**63 - 1, 2**63 - 2, 2**62 + 1, -(2**63), -(2**63) + 1, -(2**62) - 1, 2**60])
    def test_times_that_cannot_be_are_left_out(self, time: int, tmp_path: Path) -> None:
        export = small().launch("b", (41, 42), (43, 44)).launch("far", (45, 46), (time, min(time + 1, 2**63 - 1)))
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name") == [("gemm",), ("b",)]
        assert [notice.split(" (")[0] for notice in trace.metadata.notices] == [
            "1 activities have no start; they are left out"
            if time == -(2**63)
            else "1 activities have times that cannot be"
        ]

    @pytest.mark.parametrize("end", [2**63 - 1, 2**62, -(2**63), None])
    def test_ends_that_cannot_be(self, end: int | None, tmp_path: Path) -> None:
        export = small().launch("b", (41, 42), (43, 44))
        export.tables[KERNEL][0]["end"] = end
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        ending, said = (
            (44, "were still open when recording ended") if end and end > 0 else (10, "end before they start")
        )
        assert columns(trace, "activities", "start_ns", "end_ns")[0] == (10, ending)
        assert trace.metadata.notices[0].startswith(f"1 activities {said}")

    def test_all_times_near_the_limit_of_int64(self, tmp_path: Path) -> None:
        export, late = Export(), 2**63 - 100
        export.range("r", late, late + 40).launch("k", (late + 1, late + 2), (late + 3, late + 30))
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert trace.rows("activities") == trace.rows("ranges") == 0
        assert len(trace.metadata.notices) == 3

    def test_times_since_1970_are_times(self, tmp_path: Path) -> None:
        late = 1_800_000_000_000_000_000
        export = Export().launch("k", (late, late + 2), (late + 3, late + 30))
        assert columns(load(export.sqlite(tmp_path / "run.sqlite")), "activities", "end_ns") == [(late + 30,)]

    def test_null_times(self, tmp_path: Path) -> None:
        export = small().kernel("k", None, 9).range("r", None, 9).call("cudaLaunchKernel", None, None)
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert trace.metadata.notices == (
            "1 activities have no start; they are left out",
            "1 calls have no start; they are left out",
            "1 ranges have no start; they are left out",
        )

    def test_rows_without_a_thread(self, tmp_path: Path) -> None:
        trace = load(small().range("whose?", 1, 2, globalTid=None).sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "ranges", "name") == [("forward",)]
        assert trace.metadata.notices == ("1 ranges do not say their thread; they are left out",)
        assert trace.rows("processes") == 1

    def test_numbers_that_are_out_of_range(self, tmp_path: Path) -> None:
        huge: dict[str, Any] = dict.fromkeys(("gridX", "blockY", "registersPerThread", "deviceId"), 2**40)
        export = Export().launch("k", (0, 1), (2, 3), **huge, dynamicSharedMemory=2**31, streamId=-5)
        assert columns(
            load(export.sqlite(tmp_path / "run.sqlite")), "activities", "grid_x", "device", "shared_bytes"
        ) == [(-1, -1, -1)]

    @pytest.mark.parametrize("letter", ["k", "走", "<"])
    def test_names_of_100_kilobytes(self, letter: str, tmp_path: Path) -> None:
        name = letter * 100_000
        path = (
            Export()
            .range(name, 0, 9)
            .launch(name, (1, 2), (3, 4))
            .call(f"cuda{name}", 5, 6)
            .sqlite(tmp_path / "a.sqlite")
        )
        assert columns(load(path), "activities", "name") == columns(load(path), "ranges", "name") == [(name,)]

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        bad, shown = b"a\xff\xfe\x00b", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\0b"
        export = (
            Export().range(bad, 0, 9).range(b"a\xfe\xff\x00b", 5, 6).launch(bad, (1, 2), (3, 4)).call(b"cuda\xff", 5, 6)
        )
        for path in (export.sqlite(tmp_path / "run.sqlite"), export.parquetdir(tmp_path / "run")):
            trace = load(path)
            assert columns(trace, "activities", "name") == [(shown,)]
            assert columns(trace, "ranges", "name") == [(shown,), (shown,)]
            assert trace.metadata.notices == tuple(
                f"1 names of {table} are not UTF-8; bad bytes show as \N{REPLACEMENT CHARACTER}"
                for table in ("activities", "ranges")
            )

    def test_strings_that_are_not_there(self, tmp_path: Path) -> None:
        export = Export().kernel("gone", 0, 1).kernel("k", 2, 3, demangledName=None)
        export.tables["StringIds"].clear()
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name") == [("(unnamed 0)",), ("(unnamed)",)]

    def test_words_where_numbers_are_expected(self, tmp_path: Path) -> None:
        export = small().kernel("k", "soon", 9)  # type: ignore[arg-type]
        said = error_of(export.sqlite(tmp_path / "run.sqlite"))
        assert "CUPTI_ACTIVITY_KIND_KERNEL.start holds 'soon' instead of a whole number" in said

    def test_copies_alone(self, tmp_path: Path) -> None:
        export = Export().call("cudaMemcpyAsync", 0, 5, correlation=1).copy(6, 9, correlation=1).copy(12, 15)
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.busy_ns, breakdown.totals.wall_ns) == (6, 9)

    def test_steps_in_which_nothing_was_launched(self, tmp_path: Path) -> None:
        export = Export().launch("k", (500, 501), (502, 520))
        for i in range(4):
            export.range(f"step_{i}", i * 10, i * 10 + 10)
        assert tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite"))).totals.activities == 1

    def test_steps_whose_work_comes_in_another_order(self, tmp_path: Path) -> None:
        export = Export()
        for i, runs in enumerate((100, 300, 200, 400, 500)):
            export.range(f"step_{i}", i * 10, i * 10 + 10).launch("k", (i * 10, i * 10 + 5), (runs, runs + 50))
        steps = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all").tables["steps"]
        assert steps["wall_ns"].tolist() == [200, 0, 100, 100, 50]
        assert steps["busy_ns"].tolist() == [100, 0, 50, 50, 50]

    @pytest.mark.parametrize("shape", ["one empty", "all empty at one time", "one", "at one time", "calls alone"])
    def test_recordings_of_next_to_nothing(self, shape: str, tmp_path: Path) -> None:
        export = Export().range("step_0", 0, 100)
        for _ in range(1 if shape.startswith("one") else 5):
            length = 0 if "empty" in shape else 5
            export.launch("k", (10, 10 + length), (20, 20 + length))
        if shape == "calls alone":
            export.without(KERNEL)
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        totals = breakdown.totals
        lasts = 5 if shape in ("one", "at one time") else 0
        assert totals.busy_ns + sum(totals.idle_ns.values()) == totals.wall_ns == lasts

    @pytest.mark.parametrize("empty", [(0,), (9,), (0, 9), (0, 5, 9), range(10)])
    def test_activities_of_no_length_at_the_ends(self, empty: Sequence[int], tmp_path: Path) -> None:
        export = Export()
        for process in (1, 2, 3):
            for i in range(10):
                lasts = 0 if i in empty and process != 2 else 5
                export.launch("k", (i * 10, i * 10 + 1), (100 + i * 10, 100 + i * 10 + lasts), process=process)
        lanes = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all").tables["lanes"]
        ends = 90 if 9 in empty else 95
        busy = 5 * (10 - len(empty))
        assert (lanes["wall_ns"].tolist(), lanes["busy_ns"].tolist()) == ([ends, 95, ends], [busy, 50, busy])


class TestParquet:
    """Folders that nsys export --type parquetdir made, and something happened to."""

    def test_half_of_the_files(self, tmp_path: Path) -> None:
        path = everything().parquetdir(tmp_path / "run")
        (path / f"{KERNEL}.parquet").unlink()
        (path / f"{NVTX}.parquet").unlink()
        trace = load(path)
        assert not trace.has("activities")
        assert not trace.has("ranges")
        (path / "StringIds.parquet").unlink()
        assert error_of(path).startswith("no table StringIds")

    @pytest.mark.parametrize("table", ["StringIds", KERNEL, NVTX, RUNTIME])
    @pytest.mark.parametrize("kept", [0, 3, 100, -1, -9])
    def test_a_file_that_was_cut_short(self, table: str, kept: int, tmp_path: Path) -> None:
        path = everything().parquetdir(tmp_path / "run")
        file = path / f"{table}.parquet"
        file.write_bytes(file.read_bytes()[:kept])
        assert error_of(path, file).startswith("cannot be read as a Nsight Systems export (")

    def test_a_file_that_is_no_parquet(self, tmp_path: Path) -> None:
        path = everything().parquetdir(tmp_path / "run")
        (path / f"{NVTX}.parquet").write_text("hello" * 99)
        assert "Parquet magic bytes not found" in error_of(path, path / f"{NVTX}.parquet")

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        path = everything().parquetdir(tmp_path / "run")
        (path / f"{NVTX}.parquet").unlink()
        (path / f"{NVTX}.parquet").mkdir()
        assert "cannot be read" in error_of(path, path / f"{NVTX}.parquet")

    def test_parquet_files_of_something_else(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
        assert error_of(tmp_path).startswith("no table StringIds")

    @pytest.mark.parametrize(
        "dtype",
        [pa.int8(), pa.int64(), pa.uint64(), pa.float64(), pa.large_string(), pa.string(), pa.decimal128(20),
         pa.dictionary(pa.int32(), pa.int64()), pa.dictionary(pa.int32(), pa.string())],
        ids=str,
    )  # fmt: skip
    def test_numbers_of_another_type(self, dtype: pa.DataType, tmp_path: Path) -> None:
        expected = load(everything().parquetdir(tmp_path / "run")).tables
        path = tmp_path / "other"
        shutil.copytree(tmp_path / "run", path)
        for name in ("start", "end", "streamId", "correlationId", "demangledName"):
            _cast(path / f"{KERNEL}.parquet", name, dtype)
        assert {name: table.to_pylist() for name, table in load(path).tables.items()} == {
            name: table.to_pylist() for name, table in expected.items()
        }

    @pytest.mark.parametrize("dtype", [pa.list_(pa.int64()), pa.timestamp("us"), pa.binary()], ids=str)
    def test_columns_that_are_no_numbers(self, dtype: pa.DataType, tmp_path: Path) -> None:
        path = everything().parquetdir(tmp_path / "run")
        file = path / f"{KERNEL}.parquet"
        table = pq.read_table(file)
        values = {"list": [[1]], "binary": [b"soon"]}.get(str(dtype).split("<")[0], [10**15])
        pq.write_table(table.set_column(0, "start", pa.array(values, dtype)), file)
        with contextlib.suppress(InputError):
            load(path)

    @pytest.mark.parametrize(
        "dtype", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
    )
    def test_texts_of_another_type(self, dtype: pa.DataType, tmp_path: Path) -> None:
        path = everything().range("twice", 50, 51).range("twice", 52, 53).parquetdir(tmp_path / "run")
        _cast(path / f"{NVTX}.parquet", "text", dtype)
        _cast(path / "StringIds.parquet", "value", dtype)
        assert columns(load(path), "ranges", "name") == [("forward",), ("twice",), ("twice",)]

    def test_texts_that_are_all_null(self, tmp_path: Path) -> None:
        path = Export().range(None, 50, 51, registered="a").parquetdir(tmp_path / "run", {"text": pa.null()})
        assert columns(load(path), "ranges", "name") == [("a",)]

    def test_numbers_above_int64(self, tmp_path: Path) -> None:
        path = small().parquetdir(tmp_path / "run", {"start": pa.uint64()})
        table = pq.read_table(path / f"{KERNEL}.parquet")
        pq.write_table(table.set_column(0, "start", pa.array([2**64 - 5], pa.uint64())), path / f"{KERNEL}.parquet")
        assert load(path).rows("activities") == 1

    def test_a_column_that_is_there_twice(self, tmp_path: Path) -> None:
        path = small().parquetdir(tmp_path / "run")
        table = pq.read_table(path / f"{KERNEL}.parquet")
        pq.write_table(table.append_column("start", table.column("end")), path / f"{KERNEL}.parquet")
        assert "cannot be read" in error_of(path, path / f"{KERNEL}.parquet")


def _cast(file: Path, name: str, dtype: pa.DataType) -> None:
    table = pq.read_table(file)
    column = table.column(name).combine_chunks()
    through = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    column = column.cast(through)
    column = column.dictionary_encode() if pa.types.is_dictionary(dtype) else column
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), file)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "my run.nsys-rep"
    path.write_bytes(b"NVIDIA Tegra Profiler Report")
    return path


def nsys_that(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an `nsys` on PATH that runs `script`; $6 is where it is to write."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nsys").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nsys").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


class TestReports:
    """`.nsys-rep` files, which only nsys can read."""

    COMMAND = "nsys export --type parquetdir --output 'my run.parquetdir' 'my run.nsys-rep'"

    def test_without_nsys_the_error_gives_the_command(self, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(report.parent))
        needs = "needs nsys to be read, and none is on PATH; where it was recorded run: "
        assert error_of(report) == needs + self.COMMAND

    def test_with_nsys_it_is_exported(self, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = small().parquetdir(tmp_path / "made")
        nsys_that(
            f"""[ "$1 $2 $3 $4 $6" = "export --type parquetdir --output {report}" ] && cp -r {made} "$5" """,
            tmp_path,
            monkeypatch,
        )
        trace = load(report)
        assert columns(trace, "activities", "name") == [("gemm",)]
        assert trace.metadata.source == "my run.nsys-rep"

    def test_an_nsys_that_knows_no_parquet(self, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = small().sqlite(tmp_path / "made.sqlite")
        nsys_that(f"""[ "$3" = sqlite ] && cp {made} "$5" """, tmp_path, monkeypatch)
        assert columns(load(report), "activities", "name") == [("gemm",)]

    def test_a_report_by_another_name(self, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(report.parent))
        renamed = report.rename(report.with_name("run"))
        assert error_of(renamed).startswith("needs nsys to be read, and none is on PATH; where it was recorded run: ")

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ("echo 'cannot read\nthis' >&2; exit 1", "cannot read this"),
            ("exit 3", "exit code 3"),
            ("exit 0", "it wrote nothing"),
            ('mkdir "$5"', "no table StringIds, so nothing in it has a name; it is not a whole Nsight"),
            ('mkdir "$5"; echo hello > "$5/StringIds.parquet"', "StringIds.parquet: cannot be read as a Nsight"),
        ],
    )
    def test_an_export_that_fails(
        self, script: str, reason: str, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nsys_that(script, tmp_path, monkeypatch)
        message = error_of(report)
        assert message.startswith(f"nsys export failed ({reason}")
        assert message.endswith(f"; try it with the nsys that recorded it: {self.COMMAND}")
        assert "/tmp/tetrace-" not in message

    def test_an_nsys_that_cannot_be_run(self, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nsys_that("", tmp_path, monkeypatch)
        (tmp_path / "bin" / "nsys").write_bytes(b"\x7fELF")
        assert error_of(report).startswith("nsys export failed (Exec format error); try it with")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    export = everything().launch("other", (50, 51), (52, 60), process=2)
    store.write(tetrace.load(export.sqlite(tmp_path / "in" / "run.sqlite")), tmp_path / "run.tetrace")
    return tmp_path / "run.tetrace"


class TestStores:
    """`.tetrace` folders that something happened to."""

    def test_without_metadata(self, saved: Path) -> None:
        (saved / "metadata.json").unlink()
        assert error_of(saved).startswith(
            "metadata.json cannot be read (No such file or directory); import the original"
        )

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", "null", "{}", '{"format_version": 1}', "\xff", "[" * 100_000, '"format_version"']
    )
    def test_metadata_that_are_none(self, text: str, saved: Path) -> None:
        (saved / "metadata.json").write_text(text, encoding="latin-1")
        assert error_of(saved).startswith("metadata.json cannot be read (")

    @pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
    def test_another_version(self, version: object, saved: Path) -> None:
        _change(saved, format_version=version, of_a_later_version=[])
        assert error_of(saved).startswith(f"format version {version!r}, this tetrace reads 1; update tetrace or import")

    @pytest.mark.parametrize(
        "change",
        [{"notices": 3}, {"notices": [3]}, {"source": 3}, {"counts": []}, {"counts": {"a": "b"}}, {"more": 1},
         {"rows": []}, {"rows": {"activities": "x"}}, {"dropped_records": None}],
        ids=str,
    )  # fmt: skip
    def test_metadata_of_other_types(self, change: dict[str, object], saved: Path) -> None:
        _change(saved, **change)
        assert error_of(saved).startswith("metadata.json cannot be read (")

    @pytest.mark.parametrize("file", ["devices.parquet", "processes.parquet", "threads.parquet"])
    def test_a_missing_table(self, file: str, saved: Path) -> None:
        (saved / file).unlink()
        assert "rows of table" in error_of(saved)

    def test_a_missing_process(self, saved: Path) -> None:
        (saved / "activities" / "1.parquet").unlink()
        assert error_of(saved) == "1 of 2 rows of table activities are there; import the original again"

    def test_a_missing_table_of_processes(self, saved: Path) -> None:
        shutil.rmtree(saved / "activities")
        assert error_of(saved) == "0 of 2 rows of table activities are there; import the original again"

    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_a_table_that_was_cut_short(self, kept: int, saved: Path) -> None:
        file = saved / "calls" / "0.parquet"
        file.write_bytes(file.read_bytes()[:kept])
        assert error_of(saved, file).startswith("not a Parquet file of this format (")

    def test_a_table_with_other_columns(self, saved: Path) -> None:
        file = saved / "calls" / "0.parquet"
        pq.write_table(pq.read_table(file).drop_columns(["name"]), file)
        assert error_of(saved, file).startswith("not a Parquet file of this format (")

    def test_damage_inside_a_table_is_seen(self, saved: Path) -> None:
        file = saved / "activities" / "0.parquet"
        whole = file.read_bytes()
        for place in range(4, len(whole), 61):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
            assert len(complaint(saved).splitlines()) <= 1


def _change(saved: Path, **changes: object) -> None:
    document = json.loads((saved / "metadata.json").read_text())
    (saved / "metadata.json").write_text(json.dumps({**document, **changes}))


@pytest.fixture(scope="module")
def small_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first two steps of te4-fp8: small enough that a flipped bit often means something."""
    path = tmp_path_factory.mktemp("fuzz") / "run.sqlite"
    shutil.copyfile(DATA / "te4-fp8.sqlite", path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA secure_delete = OFF")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            if table.startswith("ENUM"):
                database.execute(f"DROP TABLE {table}")
            elif "start" in names:
                database.execute(f"DELETE FROM {table} WHERE rowid > 300")
    with sqlite3.connect(path) as database:
        database.execute("VACUUM")
    return path.read_bytes()


def complaint(path: Path) -> str:
    """What is said against `path`, nothing where it is a recording. Only the errors that are meant for users are caught."""
    try:
        trace = tetrace.load(path)
        breakdown = tetrace.analyze(trace, steps="all")
        assert breakdown.totals.activities == trace.rows("activities")
        tetrace.analyze(trace)
    except (InputError, UsageError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(10))
def test_damaged_databases(seed: int, small_database: bytes, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "run.sqlite"
    for _ in range(20):
        damaged = bytearray(small_database)
        for _ in range(chance.choice([1, 3, 30, 300])):
            damaged[chance.randrange(16, len(damaged))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        assert len(complaint(path).splitlines()) <= 1


def test_the_fuzzed_database_is_whole(small_database: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(small_database)
    breakdown = tetrace.analyze(tetrace.load(tmp_path / "run.sqlite"), steps="all")
    assert breakdown.totals.activities > 300


@pytest.mark.parametrize("seed", range(4))
def test_damaged_values(seed: int, tmp_path: Path) -> None:
    """Numbers and texts of whole tables replaced at random: what SQLite itself cannot see."""
    chance = random.Random(seed)
    odd = [None, -1, 0, 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), "", "text", b"\xff", 1.5, 1e300]
    for case in range(15):
        path = _varied(chance).sqlite(tmp_path / f"{case}.sqlite")
        with sqlite3.connect(path) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for _ in range(chance.choice([1, 2, 5])):
                table = chance.choice(names)
                column = chance.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
                rows = "1" if chance.random() < 0.2 else f"rowid % {chance.randrange(1, 20)} = 0"
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {rows}", (chance.choice(odd),))
        assert len(complaint(path).splitlines()) <= 1


def _varied(chance: random.Random) -> Export:
    """Two processes that train for four steps, with something in every table."""
    export = (
        Export().synchronization(31, 32, 2).synchronization(31, 37, 4).overhead("o", 3, 4).overhead("full", 5, 9, 8)
    )
    for process in (1, 2):
        for step in range(4):
            at = step * 1000 + process * chance.randrange(100)
            export.range(f"step_{step}", at, at + 900, process=process)
            for i, name in enumerate(("forward", "nvte_cublas_gemm", "backward", "optimizer")):
                begin = at + i * 200
                export.range(name, begin, begin + 190, process=process)
                export.launch(f"{name}_kernel", (begin + 9, begin + 20), (begin + 30, begin + 150), process=process)
                export.launch(
                    "nvjet_qqtst_128x256", (begin + 21, begin + 25), (begin + 150, begin + 180), process=process
                )
        export.copy(5000, 5010, process=process).memset(5010, 5020, process=process)
    export.node(5, 1).node(6, 2, original=5).graph(6000, 6100, correlation=70)
    export.rows("ThreadNames", {"nameId": export.text_id("pt_autograd_0"), "globalTid": thread_id(1, 2)})
    export.rows("PROCESSES", {"globalPid": process_id(1), "pid": 1, "name": "python"})
    export.rows("TARGET_INFO_GPU", {"id": 0, "name": "GPU", "cuDevice": 0}).rows("TARGET_INFO_CUDA_DEVICE")
    export.rows("DIAGNOSTIC_EVENT", {"severity": 2, "text": "5 events lost"})
    return export.rows("META_DATA_CAPTURE", {"name": "A:MODE", "value": "x"}).rows("META_DATA_EXPORT")
