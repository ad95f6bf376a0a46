"""What `tetrace study --new` writes: a study that runs as it is, on a CPU."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tetrace.study import results, spec

TEMPLATE = Path(spec.__file__).parent / "template"


def tetrace(folder: Path, *arguments: str) -> str:
    """What a command in `folder` writes."""
    command = [sys.executable, "-m", "tetrace", "study", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_template_has_what_it_explains() -> None:
    study = spec.read(TEMPLATE)
    assert [planned.name for planned in study.configurations] == ["gelu-2", "gelu-4", "relu-2", "relu-4"]
    assert {planned.name: planned.baseline for planned in study.configurations} == {
        "gelu-2": "gelu-2", "gelu-4": "gelu-2", "relu-2": "relu-2", "relu-4": "relu-2"
    }  # fmt: skip
    (build,) = [
        node for node in ast.parse((TEMPLATE / "model.py").read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    assert {argument.arg for argument in build.args.kwonlyargs} == set(study.configurations[0].options)


def test_a_new_study_runs_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tetrace(tmp_path, "--new", "mine")
    assert spec.read(tmp_path / "profiles/mine").title == "mine"
    tetrace(tmp_path, "mine", "--quick", "--no-recordings", "--output", "out")
    found = {one.name: one for one in results.read(tmp_path / "out").configurations}
    for name, width in (("gelu-2", 2), ("gelu-4", 4)):
        assert found[name].state == "measured", found[name].error
        assert found[name].tokens == 8 * 32
        assert found[name].flops == 6 * 256 * 2 * 2 * width * 64 * 64
        assert found[name].parameters == 2 * (2 * 64 + 2 * width * 64 * 64 + width * 64 + 64)
        assert found[name].losses.first > found[name].losses.last > 0
    assert "gelu-4" in (tmp_path / "out/REPORT.md").read_text()
