"""Recordings of two linears from some tensor of which on everything is not finite, and the origin that is found."""

from __future__ import annotations

from tests.fp8.made import Made
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.origins import Origin


def step(run: Made, number: int, bad: str = "", process: int = 0, infs: int = 0) -> Made:
    """Two linears forward and backward, and the optimizer; from the tensor `bad` on everything is NaN (or `infs` Inf)."""
    begun = False

    def counted(name: str) -> dict[str, int]:
        nonlocal begun
        first = name == bad
        begun |= first
        return {"infs": infs} if first and infs else {"nans": 3} if begun else {}

    def quantized(name: str, phase: str = "forward") -> None:
        values = [1.0, 0.5, 0.25, 0.125]
        run.tensor(number, name, values, phase=phase, process=process, **counted(name))

    for layer in ("a", "b"):
        quantized(f"{layer}.input")
        quantized(f"{layer}.weight")
        run.check(number, f"{layer}.output", process=process, **counted(f"{layer}.output"))
    run.check(number, "(loss).loss", elements=1, process=process, **counted("(loss).loss"))
    for layer in ("b", "a"):
        quantized(f"{layer}.grad_output", "backward")
    for role in ("gradient", "parameter"):
        for layer in ("a", "b"):
            columns = {"phase": "optimizer", "operation": "weight", "process": process}
            run.check(number, f"{layer}.{role}", **columns, **counted(f"{layer}.weight.{role}"))
    return run


def origin(bad: str, infs: int = 0) -> Origin:
    """The origin that is found where `bad` is the first of step 2."""
    run = step(step(step(Made(), 0), 1), 2, bad, infs=infs)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name.replace("(loss)", "(loss).loss"), found.tensor.step) == (bad, 2)
    return found
