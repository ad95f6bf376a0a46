"""What is wrong with scales: histories that froze, scales that nothing set or that something changed, stale ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.flags import Problem, Recorded, flags
from tetrace.fp8.hypothetical_scales import margin_of_run
from tetrace.fp8.observations import CHECK, DELAYED, Rows, starts_of
from tetrace.fp8.prediction import FORMATS

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

# A scale is stale when the recent amaxes would allow one so many times larger: four binades of range are not used.
_STALE, _MUCH = 16.0, 256.0
_RECENT = 4
# Scales of ranks that reduce their amaxes are the same to the bit.
_FLAGS = {"use_power_2_scales": True, "use_f32_scales": False}


def _largest(rows: Rows) -> npt.NDArray[np.float64]:
    return np.where(rows.isin("format", "E5M2"), FORMATS[1].largest, FORMATS[0].largest)


def _same_tensor(rows: Rows, apart: int = 1) -> Mask:
    """Whether the row so many places before is of the same tensor and process, shape (rows,)."""
    same = np.zeros(len(rows), np.bool_)
    same[apart:] = (rows.tensor[apart:] == rows.tensor[:-apart]) & (rows["process"][apart:] == rows["process"][:-apart])
    return same


def _frozen(recorded: Recorded) -> Iterator[Problem]:
    rows = recorded.updates
    history, amax = rows["history_max"], rows["amax"]
    # NaN stands for "not recorded" too: an infinity is certain.
    bad = np.isinf(history) | np.isinf(amax)
    for flag in flags(recorded, rows, bad, rows["history_length"].astype(np.float64)):
        until = f" for {flag.number:.0f} updates" if flag.number > 0 else ""
        yield flag.problem(
            kind="frozen_history",
            level="critical",
            title="One Inf freezes the scale",
            unit="updates",
            evidence=f"an infinite amax is in its history: the scale stays {rows['scale'][flag.row]:.4g}{until}",
            advice="`amax_compute_algo='most_recent'` or a short amax_history_len forgets it; reset the history by hand now",
        )


def _changed(recorded: Recorded) -> Iterator[Problem]:
    """The scale that a step used is not the one that the update before it had set."""
    rows = recorded.updates
    follows = _same_tensor(rows)
    follows[1:] &= np.diff(rows["step"]) <= 1
    before = np.roll(rows["next_scale"], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log2(rows["scale"] / before))
    bad = follows & np.isfinite(before) & np.isfinite(rows["scale"]) & (rows["scale"] != before)
    for flag in flags(recorded, rows, bad, np.where(np.isfinite(off), off, 1e3)):
        used, was = rows["scale"][flag.row], before[flag.row]
        yield flag.problem(
            kind="scale_changed",
            level="critical",
            title="Scale was changed from outside",
            unit="binades",
            evidence=f"step {rows['step'][flag.row]} used {used:.4g}, the update before had set {was:.4g}",
            advice="something writes to fp8_meta: a checkpoint that was loaded, a reset, recipes that change within a step",
        )


def _never_set(recorded: Recorded) -> Iterator[Problem]:
    """Delayed scaling in several steps, with a scale of 1 in all of them though there is an amax."""
    rows = recorded.rows
    delayed = rows.isin("scaling", DELAYED) & ~rows.isin("source", CHECK) & np.isfinite(rows["scale"])
    other = delayed & (rows["scale"] != 1.0)
    has_amax = delayed & ((rows["amax"] > 0) | ~np.isfinite(rows["amax"]))
    many = len(rows.keys)
    never = np.bincount(rows.tensor[other], minlength=many) == 0
    filled = np.bincount(rows.tensor[has_amax], minlength=many) > 0
    bad = delayed & never[rows.tensor] & filled[rows.tensor]
    for flag in flags(recorded, rows, bad, np.nan_to_num(rows["amax"])):
        if flag.steps >= 2:
            yield flag.problem(
                kind="never_set",
                level="warning",
                title="Scale 1.0 was never set",
                number=float(flag.steps),
                unit="steps",
                evidence=f"delayed scaling used 1.0 in all {flag.steps} steps, amax up to {rows['amax'][flag.row]:.3g}",
                advice="its amax never reaches an update: a module outside the autocast that ends, or a graph captured "
                "without updates",
            )


def _stale(recorded: Recorded) -> Iterator[Problem]:
    rows = recorded.updates
    if len(rows) <= _RECENT:
        return
    recent = rows["amax"].copy()
    for apart in range(1, _RECENT):
        same = _same_tensor(rows, apart)
        recent = np.where(same, np.fmax(recent, np.roll(rows["amax"], apart)), recent)
    room = _largest(rows) / 2.0 ** margin_of_run(rows)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unused = room / (recent * rows["scale"])
    bad = _same_tensor(rows, _RECENT - 1) & np.isfinite(unused) & (unused >= _STALE) & (recent > 0)
    for flag in flags(recorded, rows, bad, unused):
        history = rows["history_max"][flag.row]
        holds = f"; its history still holds {history:.3g}" if np.isfinite(history) else ""
        yield flag.problem(
            kind="stale_scale",
            level="warning" if flag.number >= _MUCH else "note",
            title="Stale scale",
            unit="times too small",
            evidence=f"scale {rows['scale'][flag.row]:.4g} uses 1/{flag.number:.0f} of the range: amax of the last "
            f"{_RECENT} updates is {recent[flag.row]:.3g}{holds}",
            advice="a shorter amax_history_len, amax_compute_algo='most_recent', or current scaling follows faster",
        )


def _ranks(recorded: Recorded) -> Iterator[Problem]:
    """Scales that differ between ranks where the recipe reduces amaxes over them."""
    rows = recorded.updates
    if len(recorded.ranks) < 2 or not len(rows) or _reduces(recorded) is False:
        return
    begins = starts_of(rows["process"], rows.tensor, rows["step"])
    turn = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
    order = np.lexsort((rows["process"], turn, rows["step"], rows.tensor))
    together = starts_of(rows.tensor[order], rows["step"][order], turn[order])
    scale = rows["scale"][order]
    least, most = np.fmin.reduceat(scale, together), np.fmax.reduceat(scale, together)
    lengths = np.diff(np.append(together, len(order)))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.repeat(most / least, lengths)
    bad, ratio = np.zeros(len(rows), np.bool_), np.zeros(len(rows))
    bad[order], ratio[order] = apart > 1, apart
    for flag in flags(recorded, rows, bad, ratio):
        yield flag.problem(
            kind="ranks_disagree",
            level="warning",
            title="Ranks disagree on a scale",
            unit="times",
            evidence=f"scales of one update differ by {flag.number:.3g} times between ranks that should share them",
            advice="pass the same amax_reduction_group on all ranks, and reduce_amax=True",
        )


def _reduces(recorded: Recorded) -> bool | None:
    """Whether recipes reduce amaxes; None where it was not recorded."""
    said = [detail["reduce_amax"] for _, detail in _details(recorded, "autocast") if "reduce_amax" in detail]
    return any(said) if said else None


def _power_of_two(recorded: Recorded) -> Iterator[Problem]:
    """A recipe's flag asks for scales that its quantizers do not make."""
    made = {
        bool(detail["force_pow_2_scales"])
        for _, detail in _details(recorded, "quantize")
        if "force_pow_2_scales" in detail
    }
    seen = set()
    for recipe, detail in _details(recorded, "autocast"):
        for flag, asks in _FLAGS.items():
            if flag not in detail or detail[flag] is None or (recipe, flag) in seen:
                continue
            wanted = bool(detail[flag]) == asks
            if made == {not wanted}:
                seen.add((recipe, flag))
                steps = recorded.rows["step"]
                yield Problem(
                    kind="power_of_two",
                    level="warning",
                    title="Recipe and quantizer disagree on powers of two",
                    module="",
                    role="",
                    ranks="",
                    first_step=int(steps.min(initial=0)) if len(steps) else 0,
                    last_step=int(steps.max(initial=0)),
                    steps=len(np.unique(steps)),
                    number=float("nan"),
                    unit="",
                    evidence=f"{recipe}({flag}={detail[flag]}), but its quantizers have force_pow_2_scales={not wanted}",
                    advice="only the environment variable changes it: NVTE_FP8_CURRENT_SCALING_POWER_2_SCALES, "
                    "NVTE_FP8_BLOCK_SCALING_FP32_SCALES",
                )


def _details(recorded: Recorded, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of the recipe, if any, and attributes of the sites of a kind."""
    trace = recorded.trace
    kinds, details = trace.words("sites", "kind"), trace.words("sites", "detail")
    codes = zip(trace.column("sites", "kind").tolist(), trace.column("sites", "detail").tolist(), strict=True)
    for code, detail in dict.fromkeys(codes):
        if kinds[code] == kind and details[detail]:
            found = json.loads(details[detail])
            yield str(found.get("recipe", "")), found


LOOKS: tuple[Callable[[Recorded], Iterator[Problem]], ...] = (
    _frozen, _changed, _never_set, _stale, _ranks, _power_of_two,
)  # fmt: skip
