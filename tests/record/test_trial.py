"""What `tetrace doctor` gathers: trial recordings with programs that stand in, packages that break, file systems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tetrace.record import build, cupti, probe, trial
from tetrace.record.surroundings import file_system, places


def program(folder: Path, name: str, script: str) -> None:
    """An executable on PATH that is this shell script."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


NSYS = """
case "$1" in
--version) echo "NVIDIA Nsight Systems version {version}";;
profile) for word; do case "$word" in --output=*) report="${{word#--output=}}";; esac; done; {profile};;
export) for word; do case "$last" in --output) to="$word";; esac; last="$word"; done; {export};;
esac
"""


WORKS = {"version": "2025.3.1.90-1", "profile": 'touch "$report.nsys-rep"', "export": 'mkdir "$to"'}


@pytest.mark.parametrize(
    ("changes", "uses_gpu", "expected"),
    [
        ({}, False, ("2025.3.1.90", "host", "", "")),
        (
            {"export": 'mkdir "$to"; touch "$to/CUPTI_ACTIVITY_KIND_MEMSET.parquet"'},
            True,
            ("2025.3.1.90", "gpu", "", ""),
        ),
        ({}, True, ("2025.3.1.90", "", "activity", "nothing of it was recorded")),
        (
            {"profile": "echo error: no rights; exit 3"},
            False,
            ("2025.3.1.90", "", "profile", "no rights (exit code 3)"),
        ),
        ({"profile": 'touch "$report.qdstrm"; echo lacks libdw'}, False, ("2025.3.1.90", "", "import", "lacks libdw")),
        ({"export": "echo unknown type >&2; exit 1"}, False, ("2025.3.1.90", "", "export", "unknown type")),
        ({"version": "2022.4.1"}, False, ("", "", "", "")),
    ],
)
def test_a_trial_recording(
    tmp_path: Path, changes: dict[str, str], uses_gpu: bool, expected: tuple[str, str, str, str]
) -> None:
    program(tmp_path, "nsys", NSYS.format(**{**WORKS, **changes}))
    result = trial.run({"PATH": f"{tmp_path}:/usr/bin:/bin"}, uses_gpu)
    version, tried, stage, error = expected
    assert (result.version, result.trial, result.stage) == (version, tried, stage)
    assert error in result.trial_error
    assert bool(result.error) == (not version)


def test_a_trial_of_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing loads the library, nothing is recorded."""
    (tmp_path / "extras" / "CUPTI" / "lib64").mkdir(parents=True)
    (tmp_path / "extras" / "CUPTI" / "lib64" / "libcupti.so.99").touch()
    library = tmp_path / "libtetrace_collector.so"
    library.touch()
    monkeypatch.setattr(cupti, "LIBRARY", library)
    environment = {"CUDA_HOME": str(tmp_path), "CUDA_INJECTION64_PATH": "/opt/libtool.so", "LD_LIBRARY_PATH": ""}
    assert Path(trial.run_own(environment, trial=False).cupti).name == "libcupti.so.99"
    monkeypatch.setattr(trial.gpu_touch, "__file__", str(tmp_path / "touch.py"))
    (tmp_path / "touch.py").write_text("import sys; sys.exit('tetrace: CUPTI is held by somebody; end it')")
    assert trial.run_own(environment).trial_error == "CUPTI is held by somebody; end it"
    (tmp_path / "touch.py").write_text("")
    assert trial.run_own(environment).trial_error == "the GPU worked, and nothing of it was recorded (exit code 0)"
    monkeypatch.setattr(cupti, "LIBRARY", tmp_path / "gone.so")
    monkeypatch.setattr(build, "left_out", lambda: [("the collector was not built", "install it")])
    assert trial.run_own(environment).error == "the collector was not built; install it"


def test_a_broken_transformer_engine_does_not_break_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(tmp_path, monkeypatch, "raise ImportError('libte.so: undefined symbol: cudnnX')")
    assert found["stage"] == "done"
    assert found["errors"]["transformer_engine"] == "ImportError: libte.so: undefined symbol: cudnnX"


def test_a_transformer_engine_that_kills_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 11)")
    assert found["stage"] == "transformer_engine"
    assert found["errors"]["transformer_engine"].startswith("killed by signal 11")
    assert "torch" in {**found, **found["errors"]}


def probed(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> dict[str, Any]:
    """What the probe finds with a `transformer_engine.pytorch` of this source on its path."""
    package = folder / "transformer_engine" / "pytorch"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(source, encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{before}" if before else str(folder))
    return probe.facts()


def test_file_systems_are_told_by_their_mount() -> None:
    mounts = (
        "overlay / overlay rw 0 0\nserver:/x /data\\040x nfs4 rw 0 0\ntmpfs /data\\040x/local tmpfs rw 0 0\nbroken\n"
    )
    assert file_system(Path("/data x/run"), mounts) == "nfs4"
    assert file_system(Path("/data x/local/run"), mounts) == "tmpfs"
    assert file_system(Path("/elsewhere"), mounts) == "overlay"
    assert file_system(Path("/elsewhere"), "") == ""


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    place = places(tmp_path / "not" / "yet")[0]
    assert place.writable
    assert place.free_bytes > 0
