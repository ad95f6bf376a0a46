"""What a report says outside its tables, in words that fit a screen and a Markdown page alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.breakdown import without_recorder
from tetrace.breakdown.host_run import is_one_step, other_window, warm_up
from tetrace.breakdown.launch import NO_RANGE, STEP_RANGE
from tetrace.report.grid import Column, Grid, printable
from tetrace.report.scale import NOT_CAPTURED, Scale, has_steps
from tetrace.report.views import BY_NAME
from tetrace.trace.schema import INSTRUMENTED, TABLES
from tetrace.units import milliseconds, percent, plural

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

_STEP_RANGE = "the step's own range"
# Causes of idle time below this share of wall may be one line.
_SMALL = 0.01
# Tables that may hold something where no GPU activity was captured.
_WITHOUT_GPU = ("module-time", "host-module", "host-step", "backend", "module-memory", "memory-peak")
# Of recorded facts, by words in them.
_MEANINGS = {"copies of cuDNN are loaded": ": may break TE; keep one"}
STREAM_TIMES = (
    "times are those between two CUDA events on a stream: they hold modules inside, and where the stream ran empty also "
    "the time that the host took"
)
CAUSE_WORDS = {
    "host_bound": "host-bound",
    "synchronization": "synchronization",
    "launch_latency": "launch latency",
    "dependency": "other stream",
    "graph": "inside CUDA graphs",
    "profiler": "profiler",
    "queued": "between queued activities",
    "unexplained": "unexplained",
}


@dataclass(frozen=True)
class Stretch:
    """A line of the time table. `ns` of an average step, `of_wall` its share as a number, `kind` wall, busy or idle."""

    label: str
    kind: str
    ms: str
    percent: str
    of_wall: float
    remark: str = ""


def origin(breakdown: Breakdown) -> str:
    """The file, the recorder, the GPUs and processes."""
    metadata = breakdown.attribution.trace.metadata
    lanes = breakdown.tables["lanes"]
    parts = [metadata.source, metadata.recorder.partition(" (")[0] or metadata.source_format]
    if len(lanes):
        gpus = list(dict.fromkeys(lanes["gpu"]))
        devices = len(set(zip(lanes["gpu"], lanes["device"].tolist(), strict=True)))
        named = ", ".join(gpu or f"GPU name {NOT_CAPTURED}" for gpu in gpus)
        parts.append(f"{devices} × {named}" if devices > 1 else named)
        pids = list(dict.fromkeys(lanes["pid"].tolist()))
        if len(pids) > 1:
            parts.append(f"{len(pids)} processes")
        elif pids[0] >= 0:
            parts.append(f"pid {pids[0]}")
    elif metadata.facts.get("gpu"):
        parts.append(str(metadata.facts["gpu"].get("name", "")))
    return printable(" · ".join(parts))


def steps_used(breakdown: Breakdown, brief: bool = False) -> str:
    """Which steps are counted, what marked them, and why the others are left out; `brief` shortens the reasons."""
    selection, steps = breakdown.selection, breakdown.attribution.steps
    if not selection.per_step:
        found = (
            f"; {plural(len(set(steps.number.tolist())), 'step')} found"
            if has_steps(breakdown)
            else "; no steps were found"
        )
        return f"everything in the file, from the first activity to the last{found}"
    if not has_steps(breakdown):
        return "no training steps were found: one window from the first activity to the last"
    number = steps.number[selection.windows.step].tolist()
    used = {n for n, is_used in zip(number, selection.used.tolist(), strict=True) if is_used}
    line = f"{_counted(breakdown, used, set(number))}, {_marked(breakdown, used)}"
    left_out: dict[str, set[int]] = {}
    for n, reason in zip(number, selection.reason, strict=True):
        if reason and reason not in ("not asked for", "other device or process") and n not in used:
            left_out.setdefault(reason.partition(",")[0] if brief else reason, set()).add(n)
    if left_out:
        reasons = sorted(left_out.items(), key=lambda item: min(item[1]))
        line += "; left out: " + ", ".join(f"{_spans(numbers)} ({reason})" for reason, numbers in reasons)
    return line


def _counted(breakdown: Breakdown, used: set[int], recorded: set[int]) -> str:
    """The steps that are counted: `steps 3–7 (5 of 9)`, of several lanes `9 steps of 2 ranks: 3–7, 3–6 of 0–8`."""
    frames = breakdown.selection.frames
    of_lane: dict[tuple[int, int], set[int]] = {}
    numbers = breakdown.attribution.steps.number[frames.step].tolist()
    for lane, n in zip(zip(frames.process.tolist(), frames.device.tolist(), strict=True), numbers, strict=True):
        of_lane.setdefault(lane, set()).add(n)
    if len(of_lane) < 2:
        return f"step{'' if len(used) == 1 else 's'} {_spans(used)} ({len(used)} of {len(recorded)})"
    spans = Counter(_spans(own) for own in of_lane.values())
    each = "each " if len(spans) == 1 else ""
    said = ", ".join(span if times == 1 or each else f"{span} ({times}×)" for span, times in spans.items())
    ranks = (
        len({process for process, _ in of_lane}) == len(of_lane) and int(breakdown.tables["lanes"]["rank"].min()) >= 0
    )
    whose = f"{len(of_lane)} {'ranks' if ranks else 'lanes'}"
    return f"{plural(breakdown.totals.steps, 'step')} of {whose}: {each}{said} of {_spans(recorded)}"


def _marked(breakdown: Breakdown, used: set[int]) -> str:
    """What marked the steps, with the ranges' own texts where their numbers are not those of the report."""
    steps = breakdown.attribution.steps
    names = [name for name, number in zip(steps.name, steps.number.tolist(), strict=True) if number in used and name]
    if not names or re.search(rf"(?<!\d){min(used)}$", names[0]):
        return f"marked by {steps.marked_by()}"
    return f"marked by ranges {names[0]} to {names[-1]}"


def plain_step(breakdown: Breakdown) -> str:
    """What recording cost, where the run went on after the recorded steps; empty where it did not."""
    step = without_recorder.plain_step(breakdown)
    if step is None:
        return ""
    with_it, without = milliseconds(step.recorded_ns), milliseconds(step.plain_ns)
    slowed = ", which CUPTI slows still" if step.slowed else ""
    return (
        f"recording: a step took the host {with_it} ms with it, {without} ms in the {step.steps} steps after it"
        f"{slowed} ({step.recorded_ns / step.plain_ns:.2f}×)"
    )


def _spans(numbers: Iterable[int]) -> str:
    """Numbers in words: `1–13`, `2, 4–6`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = [str(a) if a == b else f"{a}–{b}" for a, b in spans]
    return ", ".join(words if len(words) <= 8 else [*words[:7], f"… ({len(words) - 7} more)"])


def notices(breakdown: Breakdown) -> list[str]:
    """What a reader must know before any number: dropped records, the importer's notices, what was not captured."""
    trace = breakdown.attribution.trace
    lines = []
    if trace.metadata.dropped_records:
        lines.append(f"{trace.metadata.dropped_records:,} records were dropped by the recorder: sums are too low")
    lines += _merged(trace.metadata.notices)
    if breakdown.totals.hidden_ns:
        share = percent(breakdown.totals.hidden_ns, breakdown.totals.activity_ns)
        lines.append(
            f"{share} of GPU activity is inside such graphs: quantization, GEMMs and attention in it are not captured"
        )
    if is_one_step(breakdown):
        lines.append("the whole run is one step: no optimizer drove a loop; tetrace.step() in the script ends one")
    elif below := warm_up(breakdown):
        lines.append(f"every step that is counted is warm-up (below {below}, by --warmup): steady steps may be shorter")
    on_gpu = trace.has("activities") or not (trace.has("module_times") or len(breakdown.tables["host_steps"]))
    missing = [name for name in ("calls", "ranges") if on_gpu and not trace.has(name)]
    if "calls" in missing:
        lines.append("API calls were not captured: launch costs and the causes of idle time are not known")
    if "ranges" in missing:
        lines.append("host ranges were not captured: modules are not known, phases are inferred")
    return [printable(_with_its_meaning(line)) for line in lines]


def _with_its_meaning(notice: str) -> str:
    """A notice with what it means and the way out, where the recorder only states a fact."""
    meaning = next((words for fact, words in _MEANINGS.items() if fact in notice), "")
    return f"{notice}{meaning}"


def _merged(sentences: tuple[str, ...]) -> list[str]:
    """Sentences that differ in one word as one: nsys says the same of CUDA and of NVTX events."""
    merged: list[list[str]] = []
    for sentence in sentences:
        words = sentence.split(" ")
        for known in merged:
            differ = [i for i, (a, b) in enumerate(zip(known, words, strict=False)) if a != b]
            if len(known) == len(words) and len(differ) == 1:
                known[differ[0]] += f" and {words[differ[0]]}"
                break
        else:
            merged.append(words)
    return [" ".join(words) for words in merged]


def time(breakdown: Breakdown, scale: Scale, fold: bool = False) -> list[Stretch]:
    """Wall time, busy time and idle time by cause, which add up to wall; with `fold` small causes are one line."""
    totals = breakdown.totals
    lanes = "" if totals.lanes == 1 or scale.each else f", {totals.lanes} lanes summed"

    def stretch(label: str, kind: str, ns: int, remark: str = "") -> Stretch:
        return Stretch(label, kind, scale.ms(ns), percent(ns, totals.wall_ns), ns / max(totals.wall_ns, 1), remark)

    spread = ""
    if scale.each == " per step" and totals.steps > 1:
        shortest, longest = milliseconds(totals.step_min_ns), milliseconds(totals.step_max_ns)
        spread = f"mean of {totals.steps} steps; median {milliseconds(totals.step_median_ns)}, {shortest} to {longest}"
    lines = [stretch(f"wall{lanes}", "wall", totals.wall_ns, spread)]
    lines.append(stretch("busy", "busy", totals.busy_ns))
    if totals.exposed_communication_ns:
        lines.append(
            stretch("  exposed communication", "communication", totals.exposed_communication_ns, "part of busy")
        )
    small = {cause: ns for cause, ns in totals.idle_ns.items() if 0 < ns < _SMALL * totals.wall_ns} if fold else {}
    if len(small) < 2:
        small = {}
    kept = {cause: ns for cause, ns in totals.idle_ns.items() if ns and cause not in small}
    # Where every launch is known, what is left came after one, whose activity had not begun.
    all_launched = totals.activities == breakdown.launch.activities
    remarks = {"queued": "what follows was launched long before"}
    if all_launched:
        remarks["unexplained"] = "what follows was launched already"
    lines += [stretch(f"idle, {CAUSE_WORDS[cause]}", "idle", ns, remarks.get(cause, "")) for cause, ns in kept.items()]
    if small:
        names = ", ".join(CAUSE_WORDS[cause] for cause in small)
        lines.append(stretch(f"idle, {len(small)} other causes", "idle", sum(small.values()), names))
    return lines


def attributed(breakdown: Breakdown) -> str:
    """How much of GPU activity has a known phase and module."""
    totals = breakdown.totals
    whole = totals.activity_ns
    phase = f"phase {percent(whole - totals.unattributed_phase_ns, whole)} known"
    if totals.inferred_phase_ns:
        phase += f" ({percent(totals.inferred_phase_ns, whole)} inferred)"
    return f"{phase}, module {percent(whole - totals.unattributed_module_ns, whole)}"


def held_back(breakdown: Breakdown, scale: Scale, rows: int) -> Grid:
    """The host ranges that the GPU waits for, summed over modules: name and phase. What is left after `rows` is a row more,
    so that the rows add up to the host-bound idle time."""
    table, totals = breakdown.tables["host_ranges"], breakdown.totals
    sums: dict[tuple[str, str], list[int]] = {}
    for row in table.rows():
        name = _STEP_RANGE if row["range"] == STEP_RANGE else row["range"]
        both = sums.setdefault((name, row["phase"]), [0, 0, 0])
        both[0] += row["host_bound_ns"]
        both[1] += row["gaps"]
        both[2] |= row["quantizes"]
    order = sorted(sums.items(), key=lambda item: -item[1][0])
    shown = order if len(order) <= rows + 1 else order[:rows]

    def line(ns: int, gaps: int, words: str) -> tuple[str, ...]:
        return (scale.ms(ns), percent(ns, totals.wall_ns), scale.count(gaps) if gaps else "·", words)

    lines = [line(ns, gaps, _range_words(*key, bool(quantizes))) for key, (ns, gaps, quantizes) in shown]
    if left := order[len(shown) :]:
        whole = f"{len(left)} others; all {scale.ms(totals.idle_ns['host_bound'])}: idle, host-bound"
        lines.append(line(sum(sums[0] for _, sums in left), sum(sums[1] for _, sums in left), whole))
    columns = (Column(scale.head), Column("of wall"), Column("gaps", keep=1), Column("", number=False, code=True))
    return Grid("host ranges the GPU waits for", columns, tuple(lines))


def _range_words(name: str, phase: str, quantizes: bool) -> str:
    said = f"no range, in {phase}" if name == NO_RANGE else name
    if phase not in said and phase != "unattributed":
        said += f" ({phase})"
    return said + (", quantizes" if quantizes else "")


def without_activities(breakdown: Breakdown) -> list[str]:
    """The report of a recording without GPU activity: what it holds, and what it does not."""
    trace = breakdown.attribution.trace
    if breakdown.fp8_health and not trace.has("module_times") and not len(breakdown.tables["host_modules"]):
        return [f"FP8 values: {breakdown.fp8_health.verdict}"]
    values = [f"FP8 values: {breakdown.fp8_health.verdict}"] if breakdown.fp8_health else []
    if trace.has("module_times"):
        return [
            *values,
            STREAM_TIMES,
            "single GPU activities, launches and idle time were not recorded: --collector nsys or cupti does that",
        ]
    if len(breakdown.tables["host_modules"]):
        return [*values, "a module's self time is without that of the modules inside it"]
    if len(breakdown.tables["host_steps"]) and trace.metadata.facts.get("options"):
        way = other_window(breakdown)
        return [f"{way}, from step 0 on; modules and phases are seen from the first module's call on"]
    held = [f"{plural(trace.rows(table.name), 'row')} of {table.name}" for table in TABLES if trace.rows(table.name)]
    missing = [table.name for table in TABLES if not trace.has(table.name) and table.name not in INSTRUMENTED]
    lines = [f"captured: {', '.join(held) or 'nothing'}"]
    if missing:
        lines.append(f"{NOT_CAPTURED}: {', '.join(missing)}")
    return [*lines, "record with CUDA tracing on (nsys profile --trace=cuda,nvtx) around at least two training steps"]


def nothing_of(breakdown: Breakdown, what: str) -> str:
    """That a recording without GPU activities has nothing of a table or of `--kernel`, and which tables it has."""
    held = [name for name in _WITHOUT_GPU if len(breakdown.tables[BY_NAME[name].table])]
    ways = f"; this recording has --by {', '.join(held)}" if held else ""
    return f"{what}: no GPU activity was captured{ways}"
