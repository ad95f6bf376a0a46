"""`.nsys-rep` files, which only nsys can read."""

import os
from pathlib import Path

import pytest

from tests.sources.exports import columns
from tests.sources.readings import error_of, load
from tests.sources.test_nsys import small


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
