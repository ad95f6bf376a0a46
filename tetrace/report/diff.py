"""What a comparison says to people and to programs: one sentence, the largest changes, every table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import CHANGED, NOISE, SAME, TOO_FEW, Change, Changes
from tetrace.breakdown.compare import CAUSES_OF_CHANGE, PARTS, Comparison
from tetrace.breakdown.figures import FIGURES, MS, Run, words
from tetrace.breakdown.noise import FEWEST_STEPS
from tetrace.breakdown.without_recorder import added_waiting_ns, plain_step, waiting_ns
from tetrace.report import content
from tetrace.report.content import CAUSE_WORDS
from tetrace.report.grid import Column, Grid, printable
from tetrace.report.page import Page
from tetrace.units import milliseconds, percent, three_digits

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.figures import Figure

# What the first sentence always begins with, and from which share of all changes on it names another part.
_FIRST = ("gemm", "quantization", "launches")
_WORTH_A_NAME = 0.03
_PART_WORDS = {
    "gemm": "GEMMs",
    "launches": "waiting for the host",
    **{cause: f"idle, {said}" for cause, said in CAUSE_WORDS.items()},
}
_ON_SCREEN = 14
# Names are for reading: a longer one is cut in what programs read too.
_LONGEST = 2000
COLUMNS = (
    "run", "table", "row", "a_ms_per_step", "b_ms_per_step", "difference_ms_per_step", "a_noise_ms", "b_noise_ms",
    "difference_noise_ms", "verdict", "a_median_ms", "b_median_ms", "a_count", "b_count", "a_total_ns", "b_total_ns",
    "a_work_ns", "b_work_ns", "a_steps", "b_steps", "difference_ns_exact",
)  # fmt: skip


def diff_page(
    comparisons: Sequence[Comparison], by: str = "", full: bool = False, top: int = _ON_SCREEN, format_name: str = ""
) -> Page:
    """The page of one or more comparisons with the same run. `by` names the one table that is wanted, `full` asks for
    all, `top` limits their rows (0: all); what is only for json or csv is worked out for that format (empty: for all)."""
    first = comparisons[0]
    said, notices = list(headline(first)[1:]) if len(comparisons) == 1 else [], list(_notices(comparisons))
    grids: list[Grid] = []
    for one in comparisons:
        more = f"{_name(one.names[1])}: " if len(comparisons) > 1 else ""
        if more:
            said += [more + line for line in headline(one)]
        grids += [table_grid(one, table, top, more) for table in _wanted(one, by, full)]
        if not by:
            grids.append(figures_grid(one, more))
    said += [f"{_name(name)}: {_steps(run)}" for name, run in _runs(comparisons)]
    rows, facts = [], {}
    if format_name in ("", "csv"):
        rows = [row for one in comparisons for table in _chosen(one, by) for row in _rows(one, table)]
    if format_name in ("", "json"):
        facts = {"comparisons": [_facts(one, by) for one in comparisons]}
    verdict = (
        headline(first)[0] if len(comparisons) == 1 else f"{len(comparisons)} runs against {_name(first.names[0])}."
    )
    return Page(
        title=" → ".join([_name(first.names[0]), ", ".join(_name(one.names[1]) for one in comparisons)]),
        verdict=verdict,
        grids=tuple(grids),
        said=tuple(said),
        advice=(_legend(first),),
        notices=tuple(notices),
        columns=COLUMNS,
        rows=rows,
        facts=facts,
    )


def headline(comparison: Comparison) -> tuple[str, ...]:
    """What a comparison comes to, a sentence a line: steps without the recorder where they are known, what the GPU works
    and waits, what each part adds to the recorded step."""
    a, b = comparison.breakdowns
    parts = sentence(comparison)
    if _is_same(comparison):
        return (parts,)
    known = _without_recorder(comparison)
    untold = any(added_waiting_ns(run) and not plain_step(run) for run in (a, b))
    caveat = "; the recorder slows the host: time steps without it before you judge" if untold else ""
    lines = [f"{_works_and_waits(comparison)}{caveat}.", f"Recorded: {parts}" if known or untold else parts]
    return (known, *lines) if known else tuple(lines)


def _each(comparison: Comparison) -> str:
    return " a step" if comparison.breakdowns[0].selection.per_step else ""


def _is_same(comparison: Comparison) -> bool:
    rows = comparison.tables[CAUSES_OF_CHANGE].rows
    return comparison.step.verdict == SAME and not any(row.difference_ns for row in rows)


def _without_recorder(comparison: Comparison) -> str:
    """What steps take without the recorder, of both runs or of the one that knows it; empty where none does."""
    a, b = (plain_step(run) for run in comparison.breakdowns)
    names = [_name(name) for name in comparison.names]
    if a and b:
        counts = f"{a.steps}" if a.steps == b.steps else f"{a.steps} and {b.steps}"
        slowed = ", which CUPTI slows still" if a.slowed or b.slowed else ""
        ratio = f"{b.plain_ns / a.plain_ns:.2f}×, {signed(b.plain_ns - a.plain_ns)} ms".replace("-", "−")
        return (
            f"Without the recorder a step takes {_ms(a.plain_ns)} → {_ms(b.plain_ns)} ms ({ratio}): medians of the host's "
            f"time in the {counts} steps after the recorded ones{slowed}."
        )
    one = a or b
    if one is None:
        return ""
    known, other = names if a else names[::-1]
    return (
        f"Without the recorder a step of {known} takes {_ms(one.plain_ns)} ms ({_ms(one.recorded_ns)} ms with it); of "
        f"{other} that is not known, since no steps ran on after the recorded ones."
    )


def _works_and_waits(comparison: Comparison) -> str:
    """Busy and idle time, which add up to the step, and how much of the idle time is for the host."""
    works, waits = _sides(comparison, BUSY), _sides(comparison, IDLE)
    share = percent(float(works[1] - works[0]), float(works[0]))
    share = share if share.startswith("-") else f"+{share}"
    late = [waiting_ns(run) for run in comparison.breakdowns]
    said = f"The GPU works {_ms(works[0])} → {_ms(works[1])} ms{_each(comparison)} ({share})"
    said += f" and idles {_ms(waits[0])} → {_ms(waits[1])} ms"
    if all(run.attribution.trace.has("calls") for run in comparison.breakdowns):
        host = (
            f"waiting for the host {_ms(late[0])} → {_ms(late[1])} ms"
            if any(late)
            else "none of it waiting for the host"
        )
        said += f", {host}"
    return said.replace("-", "−")


def _sides(comparison: Comparison, kind: str) -> tuple[Fraction, Fraction]:
    """Busy or idle time of an average step in both runs."""
    rows = [row for row in comparison.tables[PARTS].rows if row.labels[0] == kind]
    a, b = (sum((row.per_step_ns[side] for row in rows), Fraction(0)) for side in (0, 1))
    return a, b


def sentence(comparison: Comparison, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """The comparison in one sentence: what each part adds to the step, and the sum. `names` call parts otherwise."""
    step = comparison.step
    before, after = step.per_step_ns
    share = percent(float(step.difference_ns), float(before)) if before else ""
    net = f"{signed(step.difference_ns)} ms{_each(comparison)}"
    net += f" ({share if share.startswith('-') else '+' + share}), {_ms(before)} to {_ms(after)} ms" if share else ""
    if _is_same(comparison):
        return f"No difference: {'a step' if _each(comparison) else 'it'} takes {_ms(after)} ms in both."
    parts = ", ".join(
        f"{names.get(name, _part(name))} {signed(ns)}{' (noise)' if name in comparison.unsure_parts else ''}"
        for name, ns in _named_parts(comparison)
    )
    noise = ""
    if step.verdict == NOISE:
        noise = f", within noise (±{milliseconds(step.difference_noise_ns or 0)} ms)"
        if all(row.verdict in (NOISE, SAME) for table in comparison.tables.values() for row in table.rows):
            noise += "; so is every part of it"
    return f"{parts} ms: net {net}{noise}.".replace("-", "−") if parts else f"Net {net}{noise}.".replace("-", "−")


def _named_parts(comparison: Comparison) -> list[tuple[str, Fraction]]:
    """The parts that the sentence names, and what is left of them in one."""
    parts = dict(comparison.parts)
    whole = sum((abs(ns) for ns in parts.values()), Fraction(0))
    named = [(name, parts.pop(name)) for name in _FIRST if parts.get(name)]
    rest = sorted(parts.items(), key=lambda item: -abs(item[1]))
    # Small parts may add up to something: they are named until what is left is less than any that was.
    while rest and (
        abs(rest[0][1]) >= _WORTH_A_NAME * whole
        or abs(sum((ns for _, ns in rest), Fraction(0))) >= _WORTH_A_NAME * whole
    ):
        named.append(rest.pop(0))
    left = sum((ns for _, ns in rest), Fraction(0))
    return [*named, ("all else", left)] if left else named


def _part(name: str) -> str:
    return _PART_WORDS.get(name, name)


def signed(ns: Fraction | float) -> str:
    """Nanoseconds as milliseconds with a sign, three digits of them."""
    value = float(ns) / 1e6
    return f"{'+' if value >= 0 else '-'}{three_digits(abs(value))}"


def _ms(ns: Fraction | float) -> str:
    return three_digits(float(ns) / 1e6)


def _name(name: str) -> str:
    return printable(name[:_LONGEST])


def _runs(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Breakdown]]:
    yield comparisons[0].names[0], comparisons[0].breakdowns[0]
    yield from ((one.names[1], one.breakdowns[1]) for one in comparisons)


def _steps(run: Breakdown) -> str:
    return content.steps_used(run, brief=True)


def _notices(comparisons: Sequence[Comparison]) -> Iterator[str]:
    of_line: dict[str, list[str]] = {}
    for name, run in _runs(comparisons):
        for line in content.notices(run):
            of_line.setdefault(line, []).append(_name(name))
    runs = len(comparisons) + 1
    for line, names in of_line.items():
        who = ("both" if runs == 2 else f"all {runs}") if len(names) == runs else ", ".join(names)
        yield f"{who}: {line}"
    few = [f"{_name(name)} ({_step_count(run)})" for name, run in _runs(comparisons) if _step_count(run) < FEWEST_STEPS]
    if few and comparisons[0].breakdowns[0].selection.per_step:
        yield f"too few steps to tell differences from noise: {', '.join(few)}; record {FEWEST_STEPS} steady steps or more"
    for one in comparisons:
        modules = [set(run.tables["modules"]["module"]) - {"unattributed"} for run in one.breakdowns]
        paths = [{name for name in found if not name.startswith("(")} for found in modules]
        if paths[0] and paths[1] and not paths[0] & paths[1]:
            yield f"{_name(one.names[0])} and {_name(one.names[1])} name no module alike: compare them by kernel and role"


def _step_count(run: Breakdown) -> int:
    numbers = run.attribution.steps.number
    return len({int(numbers[step]) for step in run.selection.frames.step.tolist() if step >= 0})


def _legend(comparison: Comparison) -> str:
    first = "a − b is exact to the nanosecond and adds up in every table"
    if not comparison.breakdowns[0].selection.per_step:
        return f"{first}; figures are of whole recordings."
    return (
        f"{first}; ± is noise by a block bootstrap over steps (5% over all rows together): "
        "what is within it is called noise; a share is of all changes of its table, without their signs"
        f"{_of_few_steps(comparison)}."
    ).replace("a − b", "The difference")


def _of_few_steps(comparison: Comparison) -> str:
    """What a mark in place of the noise means, where there is one."""
    few = any(row.verdict == TOO_FEW for table in comparison.tables.values() for row in table.rows)
    return "; ? where a run has too few steps to tell noise" if few else ""


def _wanted(comparison: Comparison, by: str, full: bool) -> list[Changes]:
    tables = comparison.tables
    names = [by] if by else list(tables) if full else [PARTS, CAUSES_OF_CHANGE]
    return [tables[name] for name in names]


def _chosen(comparison: Comparison, by: str) -> list[Changes]:
    return [comparison.tables[by]] if by else list(comparison.tables.values())


def table_grid(comparison: Comparison, table: Changes, top: int = 0, more: str = "") -> Grid:
    """A table of a comparison as people read it: at most `top` rows (0: all), the largest first. `more` begins its title."""
    rows = table.largest()
    shown = rows[:top] if top else rows
    heads = [
        Column("a"), Column("b"), Column("difference"), Column("±", keep=3), Column("of all", keep=4), Column("", False),
        Column("median a", keep=7, pair="median"), Column("median b", keep=7, pair="median"),
        Column("count a", keep=6, pair="count"), Column("count b", keep=6, pair="count"),
    ]  # fmt: skip
    # What a part is says whether the GPU works in it.
    keep = {**_KEEP, **({"kind": 5} if "part" in table.keys else {})}
    labels = [
        Column(key, number=False, code=key in _NAMES or key == table.keys[-1], keep=keep.get(key, 0))
        for key in table.keys
    ]
    lines = tuple((*_cells(row, table), *_label_words(table, row)) for row in shown)
    total = (
        (*_totals(table), *("all" if i == len(labels) - 1 else "" for i in range(len(labels)))) if len(rows) > 1 else ()
    )
    left = len(rows) - len(shown)
    note = f"{left:,} more row{'' if left == 1 else 's'}: --top 0 shows all" if left else ""
    each = " per step" if comparison.breakdowns[0].selection.per_step else ""
    return Grid(f"{more}{table.title}, ms{each}", (*heads, *labels), lines, total, note)


_NAMES = ("name", "module", "range", "before", "after", "kernel", "operation")
_KEEP = {"phase": 2, "role": 2}


def _label_words(table: Changes, row: Change) -> tuple[str, ...]:
    """Labels as people read them."""
    kind = row.labels[table.keys.index("kind")] if "kind" in table.keys else ""
    return tuple(_label(key, _name(word), kind or table.name) for key, word in zip(table.keys, row.labels, strict=True))


def _label(key: str, word: str, kind: str) -> str:
    if key == "kind":
        return "GPU waits" if word == IDLE else "GPU works"
    if key == "cause" or (key == "part" and kind == IDLE):
        return CAUSE_WORDS.get(word, word)
    if key == "formats":
        return word or "unknown"
    return word


def _cells(row: Change, table: Changes) -> tuple[str, ...]:
    before, after = row.per_step_ns
    noise = "" if row.difference_noise_ns is None else milliseconds(row.difference_noise_ns)
    return (
        milliseconds(float(before)),
        milliseconds(float(after)),
        _signed_cell(row.difference_ns),
        noise,
        percent(float(abs(row.difference_ns)), float(table.absolute_ns)),
        {CHANGED: "", TOO_FEW: "?"}.get(row.verdict, row.verdict),
        *(milliseconds(float(ns)) for ns in row.median_ns),
        *_counts(row),
    )


def _signed_cell(ns: Fraction) -> str:
    return f"{'+' if ns > 0 else ''}{milliseconds(float(ns))}" if ns else "0"


def _counts(row: Change) -> tuple[str, str]:
    a, b = (f"{number / steps:,.1f}".removesuffix(".0") for number, steps in zip(row.count, row.steps, strict=True))
    return a, b


def _totals(table: Changes) -> tuple[str, ...]:
    sums = [sum((row.per_step_ns[side] for row in table.rows), Fraction(0)) for side in (0, 1)]
    whole = [milliseconds(float(ns)) for ns in sums]
    return (*whole, _signed_cell(table.difference_ns), "", "", "", "", "", "", "")


def figure_rows(
    comparison: Comparison, figures: Sequence[Figure] = FIGURES
) -> Iterator[tuple[Figure, float | str | None, float | str | None]]:
    """Figures with their values in both runs."""
    a, b = (Run(run) for run in comparison.breakdowns)
    for figure in figures:
        yield figure, figure.value(a), figure.value(b)


def figures_grid(comparison: Comparison, more: str = "") -> Grid:
    """Figures that are no parts of the step: shares, counts, backends."""
    lines = []
    for figure, a, b in figure_rows(comparison, [figure for figure in FIGURES if figure.unit != MS]):
        if (a is None and b is None) or (a == b == 0):
            continue
        lines.append((figure.name, _name(words(figure, a)), _name(words(figure, b)), figure.sentence))
    heads = (Column("figure", False, code=True), Column("a"), Column("b"), Column("", False, 1, prose=True))
    return Grid(f"{more}Figures", heads, tuple(lines))


def _facts(comparison: Comparison, by: str) -> dict[str, Any]:
    return {
        "a": _name(comparison.names[0]),
        "b": _name(comparison.names[1]),
        "headline": list(headline(comparison)),
        "sentence": sentence(comparison),
        "without_recorder": _plain_steps(comparison),
        "gpu_works_ms": dict(zip("ab", (float(ns) / 1e6 for ns in _sides(comparison, BUSY)), strict=True)),
        "gpu_idles_ms": dict(zip("ab", (float(ns) / 1e6 for ns in _sides(comparison, IDLE)), strict=True)),
        "a_steps": comparison.step.steps[0],
        "b_steps": comparison.step.steps[1],
        "step": _values(comparison.step),
        "parts_ms": {name: float(ns) / 1e6 for name, ns in comparison.parts.items()},
        "figures": {figure.name: {"a": a, "b": b, "unit": figure.unit} for figure, a, b in figure_rows(comparison)},
        "tables": {
            table.name: {
                "title": table.title,
                "adds_up_to": table.whole or None,
                "difference_ns_exact": str(table.difference_ns),
                "rows": [
                    {**dict(zip(table.keys, map(_name, row.labels), strict=True)), **_values(row)}
                    for row in table.largest()
                ],
            }
            for table in _chosen(comparison, by)
        },
    }


def _plain_steps(comparison: Comparison) -> dict[str, Any]:
    """Median host times of steps without the recorder and their ratio, null where a run does not know."""
    a, b = (plain_step(run) for run in comparison.breakdowns)
    return {
        "a_ms": a.plain_ns / 1e6 if a else None,
        "b_ms": b.plain_ns / 1e6 if b else None,
        "ratio": b.plain_ns / a.plain_ns if a and b else None,
        "a_steps": a.steps if a else None,
        "b_steps": b.steps if b else None,
        "a_waiting_may_be_the_recorders_ms": added_waiting_ns(comparison.breakdowns[0]) / 1e6,
        "b_waiting_may_be_the_recorders_ms": added_waiting_ns(comparison.breakdowns[1]) / 1e6,
    }


def _rows(comparison: Comparison, table: Changes) -> Iterator[dict[str, Any]]:
    for row in table.largest():
        labels = " | ".join(_name(word) for word in row.labels)
        yield {"run": _name(comparison.names[1]), "table": table.name, "row": labels, **_values(row)}


def _values(row: Change) -> dict[str, Any]:
    before, after = row.per_step_ns
    own = row.noise_ns or (None, None)
    return {
        "a_ms_per_step": float(before) / 1e6,
        "b_ms_per_step": float(after) / 1e6,
        "difference_ms_per_step": float(row.difference_ns) / 1e6,
        "a_noise_ms": None if own[0] is None else own[0] / 1e6,
        "b_noise_ms": None if own[1] is None else own[1] / 1e6,
        "difference_noise_ms": None if row.difference_noise_ns is None else row.difference_noise_ns / 1e6,
        "verdict": row.verdict,
        "a_median_ms": float(row.median_ns[0]) / 1e6,
        "b_median_ms": float(row.median_ns[1]) / 1e6,
        "a_count": row.count[0],
        "b_count": row.count[1],
        "a_total_ns": row.total_ns[0],
        "b_total_ns": row.total_ns[1],
        "a_work_ns": row.work_ns[0],
        "b_work_ns": row.work_ns[1],
        "a_steps": row.steps[0],
        "b_steps": row.steps[1],
        "difference_ns_exact": str(row.difference_ns),
    }
