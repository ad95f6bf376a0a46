"""The FP8 tables of a trace as numpy columns: which tensor a row is of, in the order in which things ran."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.fp8.recorded import UNREADABLE
from tetrace.trace.schema import BY_NAME
from tetrace.units import plural

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.trace.trace import Trace

    Mask = npt.NDArray[np.bool_]
    Places = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]

INPUT, QUANTIZED, CHECK, RECOMPUTED = "input", "quantized", "check", "recomputed"
# Sources of rows of the tensor itself, in high precision.
WHOLE = (INPUT, RECOMPUTED)
FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER = "forward", "recompute", "backward", "optimizer"
DELAYED, CURRENT, BLOCK, MXFP8 = "delayed", "current", "block", "mxfp8"
# What to know of what was counted with scales for blocks.
BY_ROWS = (
    "with scales for blocks all numbers are of the copy by rows; the copy by columns, which the weight gradient's GEMM reads, "
    "has blocks of its own (but for 128 × 128) and was not looked at"
)
# As tetrace/instrument/fp8_inspection.py says it.
_SWITCHED_OFF = re.compile(r"FP8 inspection switched itself off in step (-?\d+)")
_OF_PARAMETERS = ("gradient", "parameter")
# Roles of tensors that flow backward: HYBRID gives them E5M2.
GRADIENTS = ("grad_output", "grad_input", "dqkv", "do", "dp", "gradient")


@dataclass(frozen=True)
class Rows:
    """A table as columns of equal length. Text columns are codes into `words`; `tensor` is a place in `keys`.

    `keys` are (module, role) of every tensor. Ranks that hold the same module share its key.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    words: Mapping[str, Sequence[str]]
    keys: tuple[tuple[str, str], ...]
    tensor: Places

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def take(self, rows: Places | Mask) -> Rows:
        """The rows at these places, or where a mask holds; keys stay."""
        return Rows(
            {name: column[rows] for name, column in self.columns.items()}, self.words, self.keys, self.tensor[rows]
        )

    @property
    def sampled(self) -> Mask:
        """Where only some rows of the tensor were looked at (`--fp8-rows`); of `fp8_tensors`."""
        return self["tensor_elements"] > self["elements"]

    def isin(self, name: str, *words: str) -> Mask:
        """Where text column `name` is one of `words`."""
        wanted = [code for code, word in enumerate(self.words[name]) if word in words]
        return np.isin(self.columns[name], wanted)

    def text(self, name: str, row: int) -> str:
        """Text column `name` in a row."""
        return self.words[name][int(self.columns[name][row])]

    def name(self, row: int) -> str:
        """Name of the tensor that a row is of."""
        return tensor_name(*self.keys[int(self.tensor[row])])


def tensor_name(module: str, role: str) -> str:
    """`layers.3.mlp.weight`: the module's path and the tensor's role in it."""
    if module.startswith("(") and module.strip("()") == role:
        return module
    return f"{module}.{role}" if module and role else module or role


def is_gradient(role: str) -> bool:
    """Whether the tensor flows backward, also where the role names one of several (`fc1.grad_output`)."""
    return role.endswith(GRADIENTS)


def tensors(trace: Trace) -> Rows:
    """`fp8_tensors` in the order of observations in each process. Raises `InputError` where it was not recorded."""
    if not trace.has("fp8_tensors"):
        none = "no FP8 statistics were recorded; record with `tetrace record --fp8 COMMAND`"
        raise InputError(f"{trace.metadata.source}: {UNREADABLE if UNREADABLE in trace.metadata.notices else none}")
    rows = _named_parameters(_rows(trace, "fp8_tensors"))
    unmeasured = rows.isin("source", CHECK) & (rows["amax"] == 0)
    # A check counts what is not finite; where it measured nothing else its other numbers mean nothing.
    columns = {
        **rows.columns,
        "amax": np.where(unmeasured, np.nan, rows["amax"]),
        "zeros": np.where(unmeasured, -1, rows["zeros"]),
    }
    rows = Rows(columns, rows.words, rows.keys, rows.tensor)
    return rows.take(np.lexsort((rows["order"], rows["process"])))


def switched_off(trace: Trace) -> int | None:
    """The step in which inspection switched itself off, by the recording's notices: the first of all processes."""
    found = (_SWITCHED_OFF.search(notice) for notice in trace.metadata.notices)
    return min((int(one[1]) for one in found if one), default=None)


def whole_steps(rows: Rows) -> int:
    """In how many steps something was observed, without the last where it holds nothing of backward and the optimizer, and
    others do: it was cut short, or is what came after training, such as an evaluation."""
    steps = np.unique(rows["step"])
    trained = rows["step"][rows.isin("phase", BACKWARD, OPTIMIZER)]
    return len(steps) - int(len(trained) > 0 and int(trained.max()) < int(steps[-1]))


def steps_seen(whole: int, steps: Sequence[int]) -> str:
    """In words, how many steps were observed, of which `whole` to their end."""
    return plural(whole, "step") + (" and a part of one more" if len(steps) > whole else "")


def scales(trace: Trace) -> Rows:
    """`fp8_scales` in the order of updates in each process; no rows where it was not recorded."""
    return _rows(trace, "fp8_scales")


def _rows(trace: Trace, table: str) -> Rows:
    declared = BY_NAME[table].columns
    columns = {column.name: trace.column(table, column.name) for column in declared}
    words = {column.name: trace.words(table, column.name) for column in declared if column.dtype == "text"}
    keys, tensor = _distinct(columns, words, ("module", "role"))
    return Rows(columns, words, tuple((module, role) for module, role in keys), tensor)


def _named_parameters(rows: Rows) -> Rows:
    """Gradients and parameters of a module are told apart by their names: `weight.gradient`."""
    keys, tensor = _distinct(rows.columns, rows.words, ("module", "role", "operation"))
    roles = [f"{name}.{role}" if role in _OF_PARAMETERS and name else role for _, role, name in keys]
    named = [(module, role) for (module, *_), role in zip(keys, roles, strict=True)]
    place = {key: number for number, key in enumerate(dict.fromkeys(named))}
    number = np.array([place[key] for key in named], np.int64)
    return Rows(rows.columns, rows.words, tuple(place), number[tensor] if len(number) else tensor)


def _distinct(
    columns: Mapping[str, npt.NDArray[Any]], words: Mapping[str, Sequence[str]], names: tuple[str, ...]
) -> tuple[list[tuple[str, ...]], Places]:
    """The distinct combinations of text columns, and which one each row has."""
    sizes = tuple(max(len(words[name]), 1) for name in names)
    found, place = np.unique(np.ravel_multi_index([columns[name] for name in names], sizes), return_inverse=True)
    codes = zip(*(part.tolist() for part in np.unravel_index(found, sizes)), strict=True)
    keys = [tuple(words[name][code] for name, code in zip(names, row, strict=True)) for row in codes]
    return keys, place.astype(np.int64)


def processes(trace: Trace) -> dict[int, str]:
    """What each process of the FP8 tables is called: its rank, or its pid; empty names where there is only one."""
    found = sorted({int(one) for one in np.unique(trace.column("fp8_tensors", "process"))})
    if len(found) < 2:
        return dict.fromkeys(found, "")
    rank = dict(
        zip(trace.column("processes", "process").tolist(), trace.column("processes", "rank").tolist(), strict=True)
    )
    pid = dict(
        zip(trace.column("processes", "process").tolist(), trace.column("processes", "pid").tolist(), strict=True)
    )
    return {
        one: f"rank {rank[one]}"
        if rank.get(one, -1) >= 0
        else f"pid {pid[one]}"
        if pid.get(one, -1) >= 0
        else f"#{one}"
        for one in found
    }


def non_finite(rows: Rows) -> Places:
    """NaNs and infinities of each row; 0 where they were not counted."""
    return np.maximum(rows["nans"], 0) + np.maximum(rows["infs"], 0)


def clipped(rows: Rows) -> Places:
    """Values that a cast made smaller, -1 where that is not known: a code at the largest value may have been just that.

    Current scaling puts the amax a rounding above the largest value at most, which loses nothing.
    """
    beyond = np.where(rows.isin("scaling", CURRENT), np.minimum(rows["saturated"], 0), rows["saturated"])
    return np.where(rows.isin("source", QUANTIZED), -1, beyond)


def starts_of(*keys: npt.NDArray[Any]) -> Places:
    """Where a new group begins in columns that are sorted by `keys`; there is none in empty columns."""
    if not len(keys[0]):
        return np.empty(0, np.int64)
    changed = np.zeros(len(keys[0]), np.bool_)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def groups(*keys: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Begin and end of each group in columns that are sorted by `keys`."""
    begins = starts_of(*keys).tolist()
    return list(itertools.pairwise([*begins, len(keys[0])])) if begins else []
