"""What lies at a path, who may read it, and who writes it meanwhile."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tetrace
from tests.sources.readings import DATA, error_of, load
from tests.sources.test_nsys import small
from tetrace.errors import InputError
from tetrace.trace import store

NOBODY = 65534
NVTX = "NVTX_EVENTS"


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

    def test_a_folder_of_recordings_names_them(self, tmp_path: Path) -> None:
        for number in range(7):
            (tmp_path / f"run{number}.tetrace").mkdir()
        (tmp_path / "notes.txt").touch()
        names = ", ".join(f"run{number}.tetrace" for number in range(5))
        assert error_of(tmp_path) == f"this folder holds {names} and 2 more; name one of them"

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
