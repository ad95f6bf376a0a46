"""What is wrong with scales: histories that froze, scales that nothing set or that something changed, stale ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tetrace.fp8.flags import Flag, Problem, Recorded, flags
from tetrace.fp8.hypothetical_scales import margin_of_run
from tetrace.fp8.observations import CHECK, DELAYED, Rows, starts_of
from tetrace.fp8.prediction import FORMATS

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

# A scale is stale when the recent amaxes would allow one so many times larger: four binades of range are not used.
_UNUSED, _MUCH = 16.0, 256.0
_RECENT = 4
# Scales of ranks that reduce their amaxes are the same to the bit.
_FLAGS = {"use_power_2_scales": True, "use_f32_scales": False}


class _Kind(NamedTuple):
    """What all problems of a kind say."""

    kind: str
    title: str
    unit: str
    advice: str
    level: str = "warning"

    def problem(self, flag: Flag, evidence: str, **changed: Any) -> Problem:
        """The problem of a tensor."""
        return flag.problem(**{**self._asdict(), "evidence": evidence, **changed})


_FROZEN = _Kind(
    kind="frozen_history",
    title="One Inf freezes the scale",
    unit="updates",
    advice="`amax_compute_algo='most_recent'` or a short amax_history_len forgets it; reset the history by hand now",
    level="critical",
)
_CHANGED = _Kind(
    kind="scale_changed",
    title="Scale was changed from outside",
    unit="binades",
    advice="something writes to fp8_meta: a checkpoint that was loaded, a reset, recipes that change within a step",
    level="critical",
)
_NEVER_SET = _Kind(
    kind="never_set",
    title="Scale 1.0 was never set",
    unit="steps",
    advice="its amax never reaches an update: a module outside the autocast that ends, or a graph captured without updates",
)
_STALE = _Kind(
    kind="stale_scale",
    title="Stale scale",
    unit="times too small",
    advice="a shorter amax_history_len, amax_compute_algo='most_recent', or current scaling follows faster",
)
_RANKS = _Kind(
    kind="ranks_disagree",
    title="Ranks disagree on a scale",
    unit="times",
    advice="pass the same amax_reduction_group on all ranks, and reduce_amax=True",
)
_APART = _RANKS._replace(
    title="Ranks do not share amaxes",
    advice="fine for stages of a pipeline and other models of one name; data-parallel ranks that should round alike need one "
    "amax_reduction_group",
    level="note",
)
_POWERS = _Kind(
    kind="power_of_two",
    title="Recipe and quantizer disagree on powers of two",
    unit="",
    advice="only the environment variable changes it: NVTE_FP8_CURRENT_SCALING_POWER_2_SCALES, "
    "NVTE_FP8_BLOCK_SCALING_FP32_SCALES",
)


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
        stays = f"the scale stays {rows['scale'][flag.row]:.4g}{until}"
        yield _FROZEN.problem(flag, f"an infinite amax is in its history: {stays}")


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
        step = rows["step"][flag.row]
        yield _CHANGED.problem(flag, f"step {step} used {used:.4g}, the update before had set {was:.4g}")


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
            used = f"delayed scaling used 1.0 in all {flag.steps} steps"
            evidence = f"{used}, amax up to {rows['amax'][flag.row]:.3g}"
            yield _NEVER_SET.problem(flag, evidence, number=float(flag.steps))


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
    bad = _same_tensor(rows, _RECENT - 1) & np.isfinite(unused) & (unused >= _UNUSED) & (recent > 0)
    for flag in flags(recorded, rows, bad, unused):
        history = rows["history_max"][flag.row]
        holds = f"; its history still holds {history:.3g}" if np.isfinite(history) else ""
        uses = f"scale {rows['scale'][flag.row]:.4g} uses 1/{flag.number:.0f} of the range"
        evidence = f"{uses}: amax of the last {_RECENT} updates is {recent[flag.row]:.3g}{holds}"
        yield _STALE.problem(flag, evidence, level="warning" if flag.number >= _MUCH else "note")


def _ranks(recorded: Recorded) -> Iterator[Problem]:
    """Scales that differ between ranks where the recipe reduces amaxes over them."""
    rows = recorded.updates
    if len(recorded.ranks) < 2 or not len(rows) or _reduces(recorded) is False:
        return
    # A reduced amax is the same to the bit: where amaxes differ too, these ranks do not share them, and may not have to.
    begins = starts_of(rows["process"], rows.tensor, rows["step"])
    turn = np.arange(len(rows)) - np.repeat(begins, np.diff(np.append(begins, len(rows))))
    order = np.lexsort((rows["process"], turn, rows["step"], rows.tensor))
    together = starts_of(rows.tensor[order], rows["step"][order], turn[order])
    scale = rows["scale"][order]
    least, most = np.fmin.reduceat(scale, together), np.fmax.reduceat(scale, together)
    lengths = np.diff(np.append(together, len(order)))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.repeat(most / least, lengths)
    amax = rows["amax"][order]
    differ = (
        np.fmin.reduceat(amax, together) != np.fmax.reduceat(amax, together) if len(amax) else np.zeros(0, np.bool_)
    )
    alone = np.bincount(rows.tensor[order], np.repeat(differ, lengths), len(rows.keys)) > 0
    bad, ratio = np.zeros(len(rows), np.bool_), np.zeros(len(rows))
    bad[order], ratio[order] = apart > 1, apart
    for flag in flags(recorded, rows, bad, ratio):
        times = f"scales of one update differ by {flag.number:.3g} times between ranks"
        if not alone[rows.tensor[flag.row]]:
            yield _RANKS.problem(flag, f"{times} that share their amaxes")
        else:
            yield _APART.problem(flag, f"{times}, whose amaxes differ too: they are in no common amax_reduction_group")


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
    told = set()
    for recipe, detail in _details(recorded, "autocast"):
        for name, asks in _FLAGS.items():
            given = detail.get(name)
            if given is None or (recipe, name) in told or made != {bool(given) != asks}:
                continue
            told.add((recipe, name))
            evidence = f"{recipe}({name}={given}), but its quantizers have force_pow_2_scales={bool(given) != asks}"
            yield _POWERS.problem(_of_recipe(recorded), evidence)


def _of_recipe(recorded: Recorded) -> Flag:
    """Of no tensor, in all steps."""
    steps = np.unique(recorded.rows["step"]).tolist() or [0]
    return Flag("", "", "", -1, float("nan"), steps[0], steps[-1], len(np.unique(recorded.rows["step"])))


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
