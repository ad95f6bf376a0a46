"""`_C.ranged_gemm` and `_C.ranged_quantize`: a call is looked at once, and has its range ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from tetrace import _C
from tetrace.instrument import ranges


def names(folder: Path) -> list[str]:
    """Of the ranges in the ring that this thread left in `folder`."""
    (ring,) = folder.glob("ranges-*.bin")
    return [str(ranges.describe(site)["name"]) for site in _C.read_ring(str(ring))["site"].tolist()]


class Tensor:
    def __init__(self, elements: int, dtype: object = "bf16") -> None:
        self.elements, self.dtype = elements, dtype

    def numel(self) -> int:
        return self.elements


class Quantized:
    def __init__(self, elements: int) -> None:
        self._data, self._transpose = None, Tensor(elements)


class Quantizer:
    rowwise_usage = columnwise_usage = True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path):
    ranges.open(tmp_path)
    yield tmp_path
    ranges.close()


def gemm_arguments(a: object, b: object, **changed: object) -> list[object]:
    places = {"trans_a": 1, "trans_b": 3, "out": 4, "bias": 7, "accumulate": 14}
    arguments = [a, True, b, False, *([None] * 10), False, False]
    for name, value in changed.items():
        arguments[places[name]] = value
    return arguments


def test_a_gemm_is_looked_at_once_whatever_is_given_by_name(folder: Path) -> None:
    asked = []
    site = ranges.site("gemm", "gemm fprop")

    def plain(*args, **kwargs):
        """What it says."""
        return len(args), kwargs

    ranged = _C.ranged_gemm(plain, lambda args, kwargs: asked.append(args) or site)
    arguments = gemm_arguments(Tensor(6), Quantized(8))
    assert [ranged(*arguments, alpha=alpha) for alpha in (1.0, 0.5)] == [(16, {"alpha": 1.0}), (16, {"alpha": 0.5})]
    assert asked == [tuple(arguments)]
    assert (ranged.__name__, ranged.__doc__, type(ranged)) == ("plain", "What it says.", type(len))
    ranges.close()
    assert names(folder) == ["gemm fprop"] * 2


@pytest.mark.parametrize(
    "changed",
    [{"a": Tensor(7)}, {"a": Quantized(6)}, {"b": Tensor(9)}, {"trans_a": False}, {"out": 1}, {"bias": 1}, {"accumulate": True}],
    ids=lambda changed: "-".join(f"{name}-{type(value).__name__}" for name, value in changed.items()),
)  # fmt: skip
def test_gemms_that_differ_are_told_apart(changed: dict[str, object]) -> None:
    asked = []
    site = ranges.site("gemm", "gemm")
    ranged = _C.ranged_gemm(lambda *args: None, lambda args, kwargs: asked.append(args) or site)
    ranged(*gemm_arguments(Tensor(6), Tensor(8)))
    ranged(*gemm_arguments(**{"a": Tensor(6), "b": Tensor(8), **changed}))
    assert len(asked) == 2


def quantize(known: dict[int, object], running: list[object], sites: list[int]):
    asked = []

    def resolve(args, kwargs):
        asked.append(args)
        return sites[min(len(asked), len(sites)) - 1]

    return _C.ranged_quantize(lambda *args, **kwargs: "done", resolve, 1, known, running), asked


def test_a_quantizer_is_remembered_until_it_is_forgotten(folder: Path) -> None:
    quantizer = Quantizer()
    ranged, asked = quantize({id(quantizer): 1}, [], [ranges.site("quantize", name) for name in ("weight", "input")])
    for _ in range(3):
        assert ranged(Tensor(4), quantizer, None, None) == "done"
    _C.forget_calls(id(quantizer))
    ranged(Tensor(4), quantizer, None, None)
    assert len(asked) == 2
    ranges.close()
    assert names(folder) == ["weight"] * 3 + ["input"]


def test_what_says_nothing_by_its_address_is_asked_for_each_time() -> None:
    quantizer, running = Quantizer(), []
    site = ranges.site("quantize", "quantize")
    unknown, asked = quantize({}, running, [site])
    for _ in range(2):
        unknown(Tensor(4), quantizer)
    assert len(asked) == 2
    known, asked = quantize({id(quantizer): 1}, running, [site])
    running.append("a compiled layer")
    for _ in range(2):
        known(Tensor(4), quantizer)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "change", [{"dtype": "fp32"}, {"out": 1}, {"noop": 1}, {"rowwise_usage": False}, {"elements": 5}], ids=str
)
def test_calls_of_one_quantizer_are_told_apart(change: dict[str, object]) -> None:
    quantizer = Quantizer()
    ranged, asked = quantize({id(quantizer): 1}, [], [ranges.site("quantize", "quantize")])
    ranged(Tensor(4), quantizer, None, None)
    quantizer.rowwise_usage = change.get("rowwise_usage", True)
    ranged(
        Tensor(change.get("elements", 4), change.get("dtype", "bf16")), quantizer, change.get("out"), change.get("noop")
    )
    assert len(asked) == 2


def test_without_a_quantizer_or_a_recording_nothing_is_asked() -> None:
    ranged, asked = quantize({}, [], [0])
    assert ranged(Tensor(4), None) == ranged(Tensor(4)) == "done"
    ranges.close()
    assert ranged(Tensor(4), Quantizer()) == "done"
    assert asked == []


def test_a_quantizer_given_by_name_is_asked_for() -> None:
    ranged, asked = quantize({}, [], [-1])
    assert ranged(Tensor(4), quantizer=Quantizer()) == "done"
    assert len(asked) == 1


def test_what_the_call_raises_passes_and_the_range_is_closed(folder: Path) -> None:
    def plain(*args):
        raise ValueError("of the script")

    ranged = _C.ranged_gemm(plain, lambda args, kwargs: ranges.site("gemm", "gemm"))
    with pytest.raises(ValueError, match="of the script"):
        ranged(*gemm_arguments(Tensor(1), Tensor(1)))
    assert ranges.depth() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_tetraces_own_fault_does_not_reach_the_script() -> None:
    def resolve(args, kwargs):
        raise RuntimeError("tetrace's")

    assert _C.ranged_gemm(lambda *args: "done", resolve)(1, 2) == "done"


def test_a_place_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="place is -1"):
        _C.ranged_quantize(len, len, -1, {}, [])
