"""The comparison of kernels' times between collectors notices what it is there for, and no noise. It needs no GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.gpu import kernel_times

STEPS, TURNS = 7, 3
# ns of kernels, and how often each runs in a step: GEMMs are most of the time, small ones most of the launches.
GEMMS = {f"gemm {number}": (20_000 + 3_000 * number, 4) for number in range(12)}
SMALL = {f"small {number}": (1_500 + 40 * number, 2) for number in range(100)}
Change = Callable[[str, float], float]


def unchanged(_name: str, ns: float) -> float:
    return ns


def recorded(rng: np.random.Generator, change: Change) -> dict[str, list[list[int]]]:
    """A recording: another clock, half a percent between processes of each kernel, and 2% between launches."""
    clock, made = np.exp(rng.normal(0, 0.015)), {}
    for name, (ns, count) in (GEMMS | SMALL).items():
        own = change(name, ns) * clock * np.exp(rng.normal(0, 0.005))
        lengths = own * np.exp(rng.normal(0, 0.02, (STEPS, count)))
        made[name] = (np.round(lengths / 32) * 32).astype(int).tolist()
    return made


def compared(seed: int, change: Change = unchanged) -> kernel_times.Compared:
    rng = np.random.default_rng(seed)
    return kernel_times.compare([(recorded(rng, unchanged), recorded(rng, change)) for _ in range(TURNS)])


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_difference(seed: int) -> None:
    found = compared(seed)
    assert found.problems == []
    assert sum(one.share for one in found.kernels) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda name, ns: ns * (1.05 if name in list(GEMMS)[:5] else 1),
            "% of the time is of kernels that last as long",
        ),
        (lambda name, ns: ns + 600 if name in SMALL else ns, "in each of 3 turns"),
        (lambda name, ns: ns * 1.2 if name == "gemm 3" else ns, "gemm 3"),
        (lambda _name, ns: ns * 1.12, "all kernels are longer"),
    ],
)
def test_what_a_collector_does_to_kernels_is_told(change: Change, said: str) -> None:
    for seed in range(5):
        problems = "\n".join(compared(seed, change).problems)
        assert said in problems, problems


def test_kernels_of_several_lengths_under_one_name_are_averaged() -> None:
    one, other = {"k": [[100, 9_000]] * 7}, {"k": [[100, 9_000], [9_000, 100]] * 4}
    (kernel,) = kernel_times.compare([(one, other)]).kernels
    assert (kernel.ns, kernel.ratios) == (4_550, (1.0,))


def test_what_is_in_no_two_recordings_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no kernel"):
        kernel_times.compare([({"a": [[1]]}, {"b": [[1]]})])
