"""The `.tetrace` folder: what goes in comes out, a folder is whole or not there, and nothing private is in it."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tetrace
from tests.fp8.made import Made
from tests.report.runs import rendered
from tests.sources.exports import Export, all_rows, process_id
from tests.traces import Recording
from tetrace.errors import UsageError
from tetrace.trace import store
from tetrace.trace.trace import Metadata, Trace

SECRET = "hunter2-SECRET"


def two_processes() -> Trace:
    """A trace with a row in most tables, of two processes."""
    recording = Recording().profiler(0, 1).stream_wait(2, stream=8).node(5, 1, original=4).named("main", thread=1)
    for process in (1, 2):
        recording.range("forward", 0, 40, process=process).launch("gemm", (5, 8), (10, 30), process=process)
    return recording.trace()


def entries(folder: Path) -> set[str]:
    """Everything in a folder, by its path in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestRoundTrip:
    """What goes in comes out."""

    def test_every_table_and_the_metadata(self, tmp_path: Path) -> None:
        trace = two_processes()
        store.write(trace, tmp_path / "run.tetrace")
        read = tetrace.load(tmp_path / "run.tetrace")
        assert read.tables.keys() == trace.tables.keys()
        assert all_rows(read) == all_rows(trace)
        assert read.metadata == dataclasses.replace(trace.metadata, source="run.tetrace")

    def test_metadata_of_all_kinds(self, tmp_path: Path) -> None:
        metadata = Metadata(
            "läuft \udcff.sqlite", "a format", "nsys 1", "node", ("one", "two\N{EM DASH}"), 7, {"A": 2**60}
        )
        store.write(Trace(metadata, two_processes().tables), tmp_path / "run.tetrace")
        assert store.read(tmp_path / "run.tetrace").metadata == metadata

    def test_what_was_flushed_of_codes_is_not_known_in_old_recordings_either(self, tmp_path: Path) -> None:
        """They hold a 0 there."""
        made = Made().tensor(0, "a.input", [1.0], source="quantized", flushed=0).tensor(0, "b.input", [1.0], flushed=0)
        store.write(made.trace(), tmp_path / "a.tetrace")
        assert store.read(tmp_path / "a.tetrace").column("fp8_tensors", "flushed").tolist() == [-1, 0]

    def test_a_recording_has_the_name_of_its_folder(self, tmp_path: Path) -> None:
        """It may have been renamed or copied since: what is shown is the file that was given."""
        store.write(two_processes(), tmp_path / "run.tetrace")
        (tmp_path / "run.tetrace").rename(tmp_path / "before.tetrace")
        assert tetrace.load(tmp_path / "before.tetrace").metadata.source == "before.tetrace"

    def test_absent_tables_stay_absent_and_empty_ones_empty(self, tmp_path: Path) -> None:
        trace = two_processes()
        tables = {**trace.tables, "ranges": trace.tables["ranges"].slice(0, 0)}
        del tables["calls"]
        store.write(Trace(trace.metadata, tables), tmp_path / "run.tetrace")
        read = tetrace.load(tmp_path / "run.tetrace")
        assert not read.has("calls")
        assert read.has("ranges")
        assert read.rows("ranges") == 0
        tetrace.analyze(read, steps="all")

    def test_the_same_breakdown(self, tmp_path: Path) -> None:
        trace = tetrace.load(Path(__file__).parent.parent / "data" / "te4-fp8.sqlite")
        store.write(trace, tmp_path / "te4-fp8.sqlite")
        read = tetrace.load(tmp_path / "te4-fp8.sqlite")
        assert rendered(tetrace.analyze(read), "json") == rendered(tetrace.analyze(trace), "json")

    def test_the_files_of_a_folder(self, tmp_path: Path) -> None:
        store.write(two_processes(), tmp_path / "run.tetrace")
        by_process = {"activities", "calls", "ranges"}
        one = {"synchronizations", "overheads", "graph_nodes"}
        assert entries(tmp_path / "run.tetrace") == (
            {"metadata.json", "processes.parquet", "threads.parquet", "devices.parquet"}
            | by_process
            | one
            | {f"{table}/{process}.parquet" for table in by_process for process in (0, 1)}
            | {f"{table}/0.parquet" for table in one}
        )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A .tetrace that is already there."""
    store.write(Recording().activity("old", 0, 1).trace(), tmp_path / "run.tetrace")
    return tmp_path / "run.tetrace"


class TestReplacing:
    """What may be written over."""

    def test_an_existing_one_only_when_asked(self, old: Path) -> None:
        before = contents(old)
        with pytest.raises(UsageError, match=r"^.*/run\.tetrace: exists; choose another name or pass --force$"):
            store.write(two_processes(), old)
        assert contents(old) == before
        store.write(two_processes(), old, replace=True)
        assert tetrace.load(old).rows("processes") == 2
        assert entries(old.parent) == {"run.tetrace", *(f"run.tetrace/{name}" for name in entries(old))}

    @pytest.mark.parametrize("replace", [False, True])
    @pytest.mark.parametrize("kind", ["file", "folder", "project", "mixed"])
    def test_nothing_else_even_when_asked(self, kind: str, replace: bool, tmp_path: Path) -> None:
        path = tmp_path / "run.tetrace"
        if kind == "file":
            path.write_text("precious")
        else:
            path.mkdir()
            (path / "precious").write_text("precious")
        if kind == "project":
            (path / "metadata.json").write_text("{}")
        if kind == "mixed":
            store.write(two_processes(), tmp_path / "other.tetrace")
            (tmp_path / "other.tetrace" / "metadata.json").rename(path / "metadata.json")
        before = contents(tmp_path)
        with pytest.raises(UsageError, match=r"run\.tetrace: exists and is not a \.tetrace folder$"):
            store.write(two_processes(), path, replace=replace)
        assert contents(tmp_path) == before
        assert path.is_file() == (kind == "file")

    def test_one_behind_a_link(self, old: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(old)
        store.write(two_processes(), tmp_path / "link", replace=True)
        assert (tmp_path / "link").is_symlink()
        assert tetrace.load(old).rows("processes") == 2

    def test_the_one_that_was_read(self, old: Path) -> None:
        trace = tetrace.load(old)
        store.write(trace, old, replace=True)
        assert all_rows(tetrace.load(old)) == all_rows(trace)

    def test_folders_above_are_made(self, tmp_path: Path) -> None:
        store.write(two_processes(), tmp_path / "a" / "b" / "run.tetrace")
        assert tetrace.load(tmp_path / "a" / "b" / "run.tetrace").rows("activities") == 2

    def test_a_folder_above_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        with pytest.raises(UsageError, match=r"cannot be written \(.*\); choose a folder that can$"):
            store.write(two_processes(), tmp_path / "a" / "run.tetrace")


class TestFailing:
    """A folder is whole or not there."""

    @pytest.mark.parametrize("exists", [False, True])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("odd"), KeyboardInterrupt()])
    @pytest.mark.parametrize("tables", [0, 4])
    def test_while_tables_are_written(
        self, exists: bool, error: BaseException, tables: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._fails(
            exists, error, tmp_path, monkeypatch, lambda: _failing(monkeypatch, pq, "write_table", tables, error)
        )

    @pytest.mark.parametrize("exists", [False, True])
    @pytest.mark.parametrize("error", [OSError(1, "Operation not permitted"), KeyboardInterrupt()])
    def test_while_it_gets_its_name(
        self, exists: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renames = 1 if exists else 0
        self._fails(exists, error, tmp_path, monkeypatch, lambda: _failing(monkeypatch, Path, "rename", renames, error))

    def _fails(
        self,
        exists: bool,
        error: BaseException,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        prepare: Callable[[], None],
    ) -> None:
        path = folder / "run.tetrace"
        if exists:
            store.write(Recording().activity("old", 0, 1).trace(), path)
        before = contents(folder)
        prepare()
        with pytest.raises(UsageError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            store.write(two_processes(), path, replace=True)
        monkeypatch.undo()
        if isinstance(error, OSError):
            reason = error.strerror or "odd"
            assert str(caught.value) == f"{path}: writing failed ({reason}); is the disk full?"
        assert contents(folder) == before
        assert entries(folder) == (
            {"run.tetrace", *(f"run.tetrace/{name}" for name in entries(path))} if exists else set()
        )


def _failing(monkeypatch: pytest.MonkeyPatch, where: object, name: str, times: int, error: BaseException) -> None:
    """Let a function work `times` times, fail once, and work again."""
    real, left = getattr(where, name), [times]

    def fails(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] == -1:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, fails)


def export_with_secrets() -> Export:
    """An export that holds the secret wherever nsys puts what a process had in its environment or on its command line."""
    path = f"/home/{SECRET}/my {SECRET} folder/{SECRET}/python3"
    export = Export().range("forward", 0, 40).launch("gemm", (5, 8), (10, 30)).overhead("Chunk Allocation", 1, 2)
    for table in ("META_DATA_CAPTURE", "META_DATA_EXPORT", "EXPORT_META_DATA"):
        for name in ("ENVIRONMENT:API_TOKEN", "COMMAND_LINE", "EXPORT_HOST_NAME", SECRET):
            export.rows(table, {"name": name, "value": f"API_TOKEN={SECRET}"})
    export.rows("META_DATA_CAPTURE", {"name": "CUDA_GRAPH_TRACE_OPTIONS:MODE", "value": SECRET})
    export.rows("META_DATA_EXPORT", {"name": "EXPORT_PRODUCT_VERSION", "value": f"2025.1 {SECRET}"})
    export.rows("TARGET_INFO_SYSTEM_ENV", {"devStateName": SECRET, "name": SECRET, "nameEnum": 1, "value": SECRET})
    for text in (SECRET, f"API_TOKEN={SECRET}", path):
        export.rows("ProcessStreams", {"globalPid": 1, "filenameId": export.text_id(text), "contentId": 1})
        export.rows("ANALYSIS_FILE", {"id": 1, "filename": path, "contentId": export.text_id(text), "globalPid": 1})
    for name in (path, f"python3 train.py --token={SECRET}", f"python3 --out /tmp/{SECRET}", f"C:\\{SECRET}\\python3"):
        export.rows("PROCESSES", {"globalPid": process_id(1), "pid": 1, "name": name})
    for text in (f"events were lost, see {path} or '{SECRET}'", f"Not all events collected: API_TOKEN={SECRET}"):
        for severity in (1, 2, 3):
            export.rows("DIAGNOSTIC_EVENT", {"timestamp": 0, "source": 1, "severity": severity, "text": text})
    return export


def kineto_with_secrets() -> dict[str, object]:
    """A PyTorch profiler file with the secret beside its events, and in arguments of them that nothing reads."""
    at = {"pid": 500, "tid": 501, "ph": "X"}
    return {
        "schemaVersion": 1,
        "environ": {"API_TOKEN": SECRET},
        "API_TOKEN": SECRET,
        "trace_id": SECRET,
        "distributedInfo": {"backend": SECRET, "rank": 0, "pg_config": [{"pg_name": SECRET}]},
        "deviceProperties": [{"id": 0, "name": "GPU", "uuid": SECRET}],
        "traceEvents": [
            {**at, "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 9, "args": {"Concrete Inputs": [SECRET]}},
            {**at, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 2, "dur": 1, "args": {"correlation": 1}},
            {
                **at,
                "cat": "kernel",
                "name": "k",
                "ts": 4,
                "dur": 2,
                "args": {"correlation": 1, "device": 0, "stream": 7},
            },
        ],
        "traceName": f"/home/{SECRET}/trace.json",
    }


def everything_in(folder: Path) -> str:
    """All bytes of a folder, and all values of its Parquet files, which are compressed."""
    texts = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    for path in folder.rglob("*.parquet"):
        file = pq.ParquetFile(path)
        texts += [str(file.read().to_pydict()), str(file.schema_arrow.metadata), str(file.metadata.metadata)]
        texts += [
            str(column.combine_chunks().dictionary)
            for column in file.read().columns
            if hasattr(column.type, "value_type")
        ]
    return "\n".join([*texts, *(str(path) for path in folder.rglob("*"))])


class TestPrivacy:
    """Exports carry the environment of the recorded process; nothing of it is kept."""

    @pytest.fixture(params=["sqlite", "parquetdir", "kineto"])
    def recording(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        if request.param == "sqlite":
            return export_with_secrets().sqlite(tmp_path / SECRET / "run.sqlite")
        if request.param == "parquetdir":
            return export_with_secrets().parquetdir(tmp_path / SECRET / "run")
        path = tmp_path / SECRET / "run.json.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(json.dumps(kineto_with_secrets()).encode()))
        return path

    def test_no_secret_is_saved_or_reported(self, recording: Path, tmp_path: Path) -> None:
        trace = tetrace.load(recording)
        assert trace.rows("activities") == 1
        store.write(trace, tmp_path / "run.tetrace")
        saved = everything_in(tmp_path / "run.tetrace")
        assert "hunter2" not in saved
        assert "gemm" in saved or "aten::mm" in saved
        breakdown = tetrace.analyze(trace, steps="all")
        for format_name in ("json", "terminal", "markdown"):
            assert "hunter2" not in rendered(breakdown, format_name)
