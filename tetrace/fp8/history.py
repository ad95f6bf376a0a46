"""One tensor, step by step: amax, scale, how much of the format's range it used, and what was lost."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import UsageError
from tetrace.fp8.observations import CHECK, RECOMPUTE, Rows, non_finite, scales, tensor_name, tensors
from tetrace.fp8.prediction import FORMATS
from tetrace.fp8.whatif import decibels

if TYPE_CHECKING:
    import pandas as pd

    from tetrace.trace.trace import Trace

_SUGGESTED = 5
_UNKNOWN = float("nan")


@dataclass(frozen=True)
class Step:
    """A tensor in one step, over its micro-batches and ranks. What was not recorded is NaN, counts -1.

    `range_used` is amax times scale as a share of the format's largest value: above 1 values are clipped. `saturated` is
    a share of all elements, `flushed` of those that are not zero. `next_scale` and `history_max` are of delayed scaling.
    """

    step: int
    observations: int
    elements: int
    amax: float
    scale: float
    range_used: float
    next_scale: float
    history_max: float
    saturated: float
    flushed: float
    snr_db: float
    mean: float
    nans: int
    infs: int
    zeros: float


@dataclass(frozen=True)
class History:
    """A tensor's steps. `format`, `scaling`, `source`, `operation`, `dtype` and `shape` are those of its newest row."""

    module: str
    role: str
    format: str
    scaling: str
    source: str
    operation: str
    dtype: str
    shape: str
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Module and role."""
        return tensor_name(self.module, self.role)

    @property
    def table(self) -> pd.DataFrame:
        """The steps as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


COLUMNS = tuple(field.name for field in dataclasses.fields(Step))


def rows_of(history: History) -> list[dict[str, Any]]:
    """The steps as dictionaries with `COLUMNS`."""
    return [dataclasses.asdict(step) for step in history.steps]


def tensor_history(trace: Trace, name: str) -> History:
    """The history of the tensor `name`: a module's path, a dot, and its role, as `layers.3.mlp.fc1.weight`.

    Raises `UsageError` with near names where there is none of this name.
    """
    rows = tensors(trace)
    tensor = _find(rows, name)
    mine = rows.take((rows.tensor == tensor) & ~rows.isin("phase", RECOMPUTE))
    mine = mine if len(mine) else rows.take(rows.tensor == tensor)
    measured = mine.take(~mine.isin("source", CHECK))
    mine = measured if len(measured) else mine
    module, role = rows.keys[tensor]
    updates = _updates(trace, module, role)
    words = {
        column: mine.text(column, len(mine) - 1)
        for column in ("format", "scaling", "source", "operation", "dtype", "shape")
    }
    numbers = np.unique(mine["step"]).tolist()
    steps = tuple(
        _step(mine.take(mine["step"] == number), updates.take(updates["step"] == number)) for number in numbers
    )
    return History(module, role, steps=steps, **words)


def _find(rows: Rows, name: str) -> int:
    """The tensor called `name`; a role may be left out where the module has one tensor."""
    names = [tensor_name(*key) for key in rows.keys]
    plain = [_plain(one) for one in names]
    found = [place for place, one in enumerate(plain) if one == _plain(name)]
    if not found:
        found = [place for place, (module, _) in enumerate(rows.keys) if module == name]
    if len(found) == 1:
        return found[0]
    if found:
        roles = ", ".join(sorted(names[place] for place in found))
        raise UsageError(f"{name}: is a module of several tensors; give one of {roles}")
    near = _near(name, names)
    said = f"near it: {', '.join(near)}" if near else f"{len(names):,} were, as {names[0]}"
    raise UsageError(f"{name}: no such tensor was recorded; {said}")


def _plain(name: str) -> str:
    return name.strip(".").lower()


def _near(name: str, names: list[str]) -> list[str]:
    """Names that `name` may have meant: those that end in it, then those that are spelled alike."""
    holding = [one for one in names if _plain(name) in _plain(one)]
    alike = difflib.get_close_matches(name, names, _SUGGESTED, 0.6)
    return list(dict.fromkeys([*sorted(holding), *alike]))[:_SUGGESTED]


def _updates(trace: Trace, module: str, role: str) -> Rows:
    rows = scales(trace)
    tensor = rows.keys.index((module, role)) if (module, role) in rows.keys else -1
    return rows.take(rows.tensor == tensor)


def _step(rows: Rows, updates: Rows) -> Step:
    elements = int(rows["elements"].sum())
    nonzero = elements - int(np.maximum(rows["zeros"], 0).sum()) - int(non_finite(rows).sum())
    finite = rows["elements"] - non_finite(rows)
    amax, scale = _largest(rows["amax"]), float(rows["scale"][-1])
    largest = next((one.largest for one in FORMATS if one.name == rows.text("format", 0)), _UNKNOWN)
    return Step(
        step=int(rows["step"][0]),
        observations=len(rows),
        elements=elements,
        amax=amax,
        scale=scale,
        range_used=_largest(rows["amax"] * rows["scale"]) / largest,
        next_scale=float(updates["next_scale"][-1]) if len(updates) else _UNKNOWN,
        history_max=float(updates["history_max"][-1]) if len(updates) else _UNKNOWN,
        saturated=_share(rows["saturated"], elements),
        flushed=_share(rows["flushed"], nonzero),
        snr_db=decibels(float((rows["mean_square"] * finite).sum()), float(rows["squared_error"].sum())),
        mean=float((rows["mean"] * finite).sum() / max(int(finite.sum()), 1)),
        nans=int(rows["nans"].sum()) if (rows["nans"] >= 0).all() else -1,
        infs=int(rows["infs"].sum()) if (rows["infs"] >= 0).all() else -1,
        zeros=_share(rows["zeros"], elements),
    )


def _largest(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else _UNKNOWN


def _share(counts: Any, whole: int) -> float:
    return float(counts.sum()) / max(whole, 1) if (counts >= 0).all() else _UNKNOWN
