"""Each test has a folder of its own with two scripts, and nothing of the caller's environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.record.scripts import TALKS, TRAINS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("TETRACE", "NSYS", "PYTHONPATH")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (tmp_path / "talks.py").write_text(TALKS)
    (tmp_path / "trains.py").write_text(TRAINS)


@pytest.fixture
def torch() -> None:
    pytest.importorskip("torch")
