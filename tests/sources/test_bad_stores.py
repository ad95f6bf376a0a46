"""`.tetrace` folders that something happened to."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tetrace
from tests.sources.readings import complaint, error_of
from tests.sources.test_nsys import everything
from tetrace.trace import store


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
            "metadata.json cannot be read (No such file or directory); copy it again, or import the original"
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
        assert (
            error_of(saved) == "1 of 2 rows of table activities are there; copy it again, or import the original again"
        )

    def test_a_missing_table_of_processes(self, saved: Path) -> None:
        shutil.rmtree(saved / "activities")
        assert (
            error_of(saved) == "0 of 2 rows of table activities are there; copy it again, or import the original again"
        )

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
