"""Folders of Parquet that something happened to."""

import contextlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sources.exports import Export, columns
from tests.sources.readings import error_of, load
from tests.sources.test_nsys import everything, small
from tetrace.errors import InputError

KERNEL, RUNTIME, NVTX = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"


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
