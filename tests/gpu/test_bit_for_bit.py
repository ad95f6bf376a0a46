"""An instrumented and a recorded run compute what the plain run computes, bit for bit, and fail where it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parent / "training.py"
RECIPES = ("none", "delayed", "current", "block")
MODES = ("eager", "checkpoint", "compile", "graphs")
WAYS = ("plain", "plain again", "instrumented", "recorded")
# Recordings of this many processes at a time share the GPU: nothing here is timed.
_AT_A_TIME = 8

Outcome = tuple[int, str, str]


def command(way: str, folder: Path) -> list[str]:
    """How a way of running begins."""
    if way.startswith("plain"):
        return [sys.executable]
    collector = "host" if way == "instrumented" else "nsys"
    return [
        *(
            sys.executable,
            "-m",
            "tetrace",
            "record",
            "--collector",
            collector,
            "-o",
            str(folder / "run"),
            "--steps",
            "all",
        ),
        "--",
    ]


def outcome(way: str, recipe: str, mode: str, folder: Path) -> Outcome:
    """Exit code, what was computed, and the last line of the error."""
    run = subprocess.run(
        [*command(way, folder), str(SCRIPT), "--recipe", recipe, "--mode", mode],
        capture_output=True, text=True, cwd=folder, timeout=400, check=False, env=dict(os.environ),
    )  # fmt: skip
    error = [line for line in run.stderr.splitlines() if re.match(r"[\w.]*Error: ", line)]
    if not run.returncode and not json.loads(run.stdout or "{}").get("losses"):
        return 1, run.stdout, run.stderr[-2000:]
    if way == "recorded" and not run.returncode and not (folder / "run.tetrace").is_dir():
        return 1, "", f"nothing was recorded: {run.stderr[-2000:]}"
    return run.returncode, run.stdout, error[-1] if error else run.stderr[-500:] if run.returncode else ""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str, str], Future[Outcome]]]:
    """All runs, several at a time."""
    if shutil.which("nsys") is None:
        pytest.fail("nsys is not on PATH: the recorded runs cannot be made")
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        yield {
            (way, recipe, mode): pool.submit(outcome, way, recipe, mode, tmp_path_factory.mktemp("run"))
            for recipe in RECIPES
            for mode in MODES
            for way in WAYS
        }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_same_bits(recipe: str, mode: str, outcomes: dict[tuple[str, str, str], Future[Outcome]]) -> None:
    plain, again, instrumented, recorded = (outcomes[way, recipe, mode].result() for way in WAYS)
    assert plain == again, "plain runs differ from each other: nothing can be compared"
    assert instrumented == plain
    assert recorded == plain
    if (recipe, mode) == ("delayed", "compile"):
        assert plain[0] == 1
        assert "Error: " in plain[2]
    else:
        assert plain[0] == 0
        assert len(set(json.loads(plain[1])["losses"])) > 10, "a loss that does not move proves nothing"
