"""One tensor, step by step: amax, scale, how much of the format's range it used, and what was lost."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import UsageError
from tetrace.fp8.observations import (
    CHECK,
    DELAYED,
    QUANTIZED,
    RECOMPUTE,
    Rows,
    clipped,
    non_finite,
    scales,
    starts_of,
    tensor_name,
    tensors,
)
from tetrace.fp8.prediction import FORMATS
from tetrace.fp8.whatif_rows import decibels

if TYPE_CHECKING:
    import pandas as pd

    from tetrace.trace.trace import Trace

_SUGGESTED = 5
_UNKNOWN = float("nan")


@dataclass(frozen=True)
class Step:
    """A tensor in one step, over its micro-batches and ranks. What was not recorded is NaN, counts -1.

    `range_used` is amax times scale as a share of the format's largest value: above 1 values are clipped. `saturated` is
    what was counted, as a share of all elements: those that a cast made smaller are `clipped`, and of FP8 codes that alone
    were seen, those that are the largest value are `at_max`, NaN where none were. `flushed` is a share of what is not zero.
    `next_scale` and `history_max` are of delayed scaling.
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
    clipped: float
    at_max: float
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
    def steps_of_codes(self) -> int:
        """In how many steps the tensor was seen as its FP8 codes alone, by some rank or micro-batch at least."""
        return sum(step.at_max == step.at_max for step in self.steps)

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
    """The history of the tensor `name`: a module's path, a dot, and its role, as `layers.3.mlp.fc1.weight`. Of one that a
    kernel keeps to itself (S and dP of FP8 attention) it is that of its updates.

    Raises `UsageError` with near names where there is none of this name.
    """
    rows, updates = tensors(trace), scales(trace)
    seen = set(rows.keys)
    alone = [key for key in updates.keys if key not in seen]
    place = _find([*rows.keys, *alone], name)
    if place < len(rows.keys):
        return history_of(rows, updates, place)
    return _of_updates(updates, *alone[place - len(rows.keys)])


def history_of(rows: Rows, updates: Rows, tensor: int) -> History:
    """The history of the tensor at a place in the keys of `rows`: of all that was recorded, or of the steps taken of it."""
    mine = rows.take(rows.tensor == tensor)
    own = mine.take(~mine.isin("phase", RECOMPUTE))
    mine = own if len(own) else mine
    measured = mine.take(~mine.isin("source", CHECK))
    mine = measured if len(measured) else mine
    module, role = rows.keys[tensor]
    updates = _of_tensor(updates, module, role)
    words = {
        column: mine.text(column, len(mine) - 1)
        for column in ("format", "scaling", "source", "operation", "dtype", "shape")
    }
    return History(module, role, steps=_steps(mine.take(np.argsort(mine["step"], kind="stable")), updates), **words)


def _find(keys: Sequence[tuple[str, str]], name: str) -> int:
    """The tensor called `name`; a role may be left out where the module has one tensor."""
    names = [tensor_name(*key) for key in keys]
    plain = [_plain(one) for one in names]
    found = [place for place, one in enumerate(plain) if one == _plain(name)]
    if not found:
        found = [place for place, (module, _) in enumerate(keys) if module == name]
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


def _of_tensor(rows: Rows, module: str, role: str) -> Rows:
    tensor = rows.keys.index((module, role)) if (module, role) in rows.keys else -1
    return rows.take(rows.tensor == tensor)


def _of_updates(updates: Rows, module: str, role: str) -> History:
    """The history of a tensor of which only updates of its scale were seen; of a step's updates the last one holds."""
    mine = _of_tensor(updates, module, role)
    mine = mine.take(np.argsort(mine["step"], kind="stable"))
    begins = starts_of(mine["step"])
    last = np.append(begins[1:], len(mine)) - 1
    with np.errstate(invalid="ignore", over="ignore"):
        used = mine["amax"] * mine["scale"] / _largest_values(mine)
    unknown = dict.fromkeys(("saturated", "clipped", "at_max", "flushed", "snr_db", "mean", "zeros"), _UNKNOWN)
    steps = [
        Step(
            step=int(mine["step"][place]),
            observations=int(place - begin + 1),
            elements=-1,
            amax=float(np.fmax.reduce(mine["amax"][begin : place + 1])),
            scale=float(mine["scale"][place]),
            range_used=float(np.fmax.reduce(used[begin : place + 1])),
            next_scale=float(mine["next_scale"][place]),
            history_max=float(mine["history_max"][place]),
            nans=-1,
            infs=-1,
            **unknown,
        )
        for begin, place in zip(begins.tolist(), last.tolist(), strict=True)
    ]
    number_format = mine.text("format", len(mine) - 1)
    return History(module, role, number_format, DELAYED, "update", "", "", "", tuple(steps))


def _steps(rows: Rows, updates: Rows) -> tuple[Step, ...]:
    """The steps of one tensor's rows, which are sorted by step; of a step's updates the last one holds."""
    begins = starts_of(rows["step"])
    last_update = {step: place for place, step in enumerate(updates["step"].tolist())}
    places = [last_update.get(step, -1) for step in rows["step"][begins].tolist()]
    bad, zeros = non_finite(rows), np.maximum(rows["zeros"], 0)
    finite = rows["elements"] - bad

    def total(values: Any) -> Any:
        return np.add.reduceat(values, begins)

    def share(counts: Any, whole: Any) -> Any:
        known = np.logical_and.reduceat(counts >= 0, begins)
        return np.where(known, total(counts) / np.maximum(whole, 1), _UNKNOWN)

    def count(name: str) -> Any:
        return np.where(np.logical_and.reduceat(rows[name] >= 0, begins), total(rows[name]), -1)

    def update(name: str) -> list[float]:
        return [float(updates[name][place]) if place >= 0 else _UNKNOWN for place in places]

    elements = total(rows["elements"])
    codes = rows.isin("source", QUANTIZED).astype(np.int64)
    at_max = total(rows["saturated"] * codes) / np.maximum(total(rows["elements"] * codes), 1)
    with np.errstate(invalid="ignore", over="ignore"):
        used = rows["amax"] * rows["scale"]
    signal, error = total(rows["mean_square"] * finite), total(rows["squared_error"])
    columns = {
        "step": rows["step"][begins],
        "observations": np.diff(np.append(begins, len(rows))),
        "elements": elements,
        # Ignores NaN as long as there is a number.
        "amax": np.fmax.reduceat(rows["amax"], begins),
        "scale": rows["scale"][np.append(begins[1:], len(rows)) - 1],
        "range_used": np.fmax.reduceat(used, begins) / _largest_values(rows)[begins],
        "saturated": share(rows["saturated"], elements),
        "clipped": share(clipped(rows), elements),
        "at_max": np.where(total(codes) > 0, at_max, _UNKNOWN),
        "flushed": share(rows["flushed"], elements - total(zeros) - total(bad)),
        "mean": total(rows["mean"] * finite) / np.maximum(total(finite), 1),
        "nans": count("nans"),
        "infs": count("infs"),
        "zeros": share(rows["zeros"], elements),
    }
    lists = {name: values.tolist() for name, values in columns.items()}
    lists["snr_db"] = [decibels(*both) for both in zip(signal.tolist(), error.tolist(), strict=True)]
    lists["next_scale"], lists["history_max"] = update("next_scale"), update("history_max")
    return tuple(Step(**dict(zip(lists, values, strict=True))) for values in zip(*lists.values(), strict=True))


def _largest_values(rows: Rows) -> Any:
    """The largest value of each row's format, NaN where it has none."""
    largest = {one.name: one.largest for one in FORMATS}
    return np.array([largest.get(word, _UNKNOWN) for word in rows.words["format"]])[rows["format"]]
