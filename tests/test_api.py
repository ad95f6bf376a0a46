"""What `import tetrace` offers: names, and what it says of arguments of the wrong kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tetrace

DATA = Path(__file__).parent / "data"


def test_all_names_can_be_completed() -> None:
    assert set(tetrace.__all__) <= set(dir(tetrace))
    assert {"fp8", "load", "compare"} <= set(dir(tetrace))


def test_arguments_of_the_wrong_kind() -> None:
    path: Any = str(DATA / "te4-bf16.sqlite")
    trace: Any = tetrace.load(DATA / "te4-bf16.sqlite")
    with pytest.raises(tetrace.UsageError, match=r"analyze takes what tetrace\.load\(path\) returns, not '.*te4-bf16"):
        tetrace.analyze(path)
    with pytest.raises(tetrace.UsageError, match=r"compare takes what tetrace\.analyze\(trace\) returns, not a Trace"):
        tetrace.compare(trace, trace)
