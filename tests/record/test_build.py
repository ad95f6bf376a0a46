"""What is said of a build that left something out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tetrace import _C
from tetrace.record import build

LINUX = {"system": "Linux x86_64", "compiler": "GNU 12.2.0", "cuda_headers": 13000, "nvtx": True}
WHOLE = {**LINUX, "collector": True, "no_collector": "", "fp8": True, "no_fp8": ""}


def without(reason: str, **facts: object) -> dict[str, object]:
    """A build without the collector."""
    return {**LINUX, "cuda_headers": 0, "collector": False, "no_collector": reason, **facts}


def test_this_build_says_what_it_is() -> None:
    built = _C.build_info()
    assert built.keys() == WHOLE.keys()
    assert built["collector"] == (not built["no_collector"])
    assert built["nvtx"] == build.LIBRARY.exists() or not built["collector"]
    assert built["fp8"] == (not built["no_fp8"])
    assert bool(build.left_out()) == (not built["collector"] or not built["fp8"])


def test_nothing_is_said_of_a_whole_build(tmp_path: Path) -> None:
    library = tmp_path / "libtetrace_collector.so"
    library.touch()
    assert build._left_out(WHOLE, library) == []


def test_a_library_that_is_gone(tmp_path: Path) -> None:
    [(what, way_out)] = build._left_out(WHOLE, tmp_path / "libtetrace_collector.so")
    assert what == f"the collector is missing: {tmp_path}/libtetrace_collector.so"
    assert way_out == "install tetrace again with pip, in this Python"


@pytest.mark.parametrize(
    ("reason", "what", "way_out"),
    [
        (
            "platform",
            "no GPU is recorded on Linux x86_64: CUDA needs Linux on x86_64 or aarch64",
            "record on the machine",
        ),
        ("option", "the collector was not built: TETRACE_COLLECTOR=OFF", "install tetrace again without"),
    ],
)
def test_each_reason_has_a_way_out(tmp_path: Path, reason: str, what: str, way_out: str) -> None:
    [(said, advice)] = build._left_out(without(reason), tmp_path / "none")
    assert said.startswith(what)
    assert advice.startswith(way_out)


@pytest.mark.parametrize(
    ("reason", "what", "way_out"),
    [
        ("nvcc", "the kernels that inspect FP8 tensors were not built: no nvcc", "install tetrace again where a CUDA"),
        (
            "option",
            "the kernels that inspect FP8 tensors were not built: TETRACE_FP8=OFF",
            "install tetrace again without",
        ),
    ],
)
def test_kernels_that_are_not_there_are_named(tmp_path: Path, reason: str, what: str, way_out: str) -> None:
    library = tmp_path / "libtetrace_collector.so"
    library.touch()
    [(said, advice)] = build._left_out({**WHOLE, "fp8": False, "no_fp8": reason}, library)
    assert said.startswith(what)
    assert advice.startswith(way_out)


def test_a_system_without_cuda_is_told_of_once(tmp_path: Path) -> None:
    found = build._left_out({**without("platform"), "fp8": False, "no_fp8": "platform"}, tmp_path / "none")
    assert [said for said, _ in found] == ["no GPU is recorded on Linux x86_64: CUDA needs Linux on x86_64 or aarch64"]
