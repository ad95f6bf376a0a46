"""What stood around the measurement: compilation and warm-up, clocks, machine and versions, and how to do it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tetrace.report.grid import Column, Grid
from tetrace.study.results import MEASURED
from tetrace.study.section import NOTHING, Section, cut, without_empty

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration, Round

# What the words of a study's report mean; docs/study.md says the same (a test holds the two together).
MEANINGS = {
    "Configuration": "one value of each axis of the study's matrix, run in a process of its own.",
    "Round": "steps back to back, after the warm-up; rounds of all configurations that are alive take turns, so that drift "
    "of the clocks touches all alike.",
    "Step time": "the median over rounds of the median of each round's steps: on a GPU by CUDA events, from the first event "
    "of a step to that of the next.",
    "Phase time": "of a step, up to its mark: the forward's ends where the model's code says so.",
    "95% interval": "holds the true median in at least 95% of all studies; order statistics of rounds from six rounds on, "
    "Student's t for fewer, none for one.",
    "Speed-up": "the baseline's time over the configuration's, as the median over pairs of rounds with the same number.",
    "Share of peak": "TFLOP/s of the matrix products that the model counts, of what tetrace doctor --calibrate measured of "
    "this GPU: of its FP8 peak where GEMMs ran in FP8, else of BF16.",
    "Peak memory": "the largest allocation of torch during the measured rounds.",
    "Recorded difference": "by how much an average steady step is longer in one recording than in the other; causes add up "
    "to it exactly. A recorder slows the host, so it is not the timed difference where a step waits for the host.",
    "Waiting": "the GPU idles; the row says for what, and in which range the host was then.",
    "Verdict": "a claim holds, or does not hold here, where the whole interval is on one side of its limit; else it cannot "
    "be told.",
    "Not recorded": "there is no recording, or the recorder did not write that table. It is never shown as 0.",
}


def startup_section(material: Material) -> Section:
    """What a configuration costs before it is warm: imports, construction, the first step with compilation."""
    rows = [_startup_row(material, one) for one in material.configurations if one.first_step_ns or one.import_ns]
    heads = [
        Column("configuration", number=False, code=True), Column("import s"), Column("build s"), Column("first step s"),
        Column("warm-up s", keep=1), Column("a warm step ms"), Column("first step more, s"),
    ]  # fmt: skip
    if not rows:
        return Section("startup", "Before it is warm")
    shown, lines = without_empty(heads, rows)
    said = "Each measured once: imports, construction, and the first step with its compilation and autotuning."
    return Section("startup", "Before it is warm", (said,), (Grid("Start of each configuration", shown, lines),))


def _startup_row(material: Material, one: Configuration) -> tuple[str, ...]:
    warm = material.time(one.name)
    more = NOTHING
    if warm and one.first_step_ns is not None:
        more = f"{(one.first_step_ns - warm.value) / 1e9:,.2f}"
    return (
        one.name,
        *(_seconds(ns) for ns in (one.import_ns, one.build_ns, one.first_step_ns, one.warmup_ns)),
        NOTHING if warm is None else f"{warm.value / 1e6:,.3f}",
        more,
    )


def _seconds(ns: int | None) -> str:
    return NOTHING if ns is None else f"{ns / 1e9:,.2f}"


def clocks_section(material: Material) -> Section:
    """Clocks, power and temperature while rounds ran, and what throttled the GPU."""
    members = [one for one in material.configurations if any(each.sm_mhz is not None for each in one.rounds)]
    if not members:
        return Section("clocks", "Clocks")
    heads = (
        Column("configuration", number=False, code=True), Column("rounds"), Column("SM MHz"), Column("power W", keep=1),
        Column("hottest °C", keep=1), Column("throttled rounds"), Column("by", number=False),
    )  # fmt: skip
    rows = tuple(_clock_row(one) for one in members)
    said = throttled_words(material)
    return Section("clocks", "Clocks", (said,) if said else (), (Grid("While rounds ran", heads, rows),))


def _clock_row(one: Configuration) -> tuple[str, ...]:
    throttled = [each for each in one.rounds if each.throttled]
    reasons = dict.fromkeys(reason for each in throttled for reason in each.throttled)
    return (
        one.name,
        str(len(one.rounds)),
        _range(one.rounds, "sm_mhz"),
        _range(one.rounds, "power_w"),
        _range(one.rounds, "temperature_c").rpartition("–")[2],
        str(len(throttled)) if throttled else "",
        cut(", ".join(reasons)),
    )


def _range(rounds: Sequence[Round], name: str) -> str:
    known = [value for each in rounds if (value := getattr(each, name)) is not None]
    if not known:
        return NOTHING
    low, high = f"{min(known):,.0f}", f"{max(known):,.0f}"
    return low if low == high else f"{low}–{high}"


def throttled_words(material: Material) -> str:
    """How many rounds ran on a GPU that was slowed; empty where none did."""
    rounds = [each for one in material.configurations for each in one.rounds]
    slowed = [each for each in rounds if each.throttled]
    if not slowed:
        return ""
    reasons = ", ".join(dict.fromkeys(reason for each in slowed for reason in each.throttled))
    return f"In {len(slowed)} of {len(rounds)} rounds something slowed the GPU: {cut(reasons)}."


def environment_section(material: Material) -> Section:
    """Machine, versions, date, and the command that does it again."""
    results = material.results
    facts = {
        "date": f"{results.started} to {results.ended}" if results.ended else f"{results.started}, not ended",
        **{key: str(said) for key, said in results.machine.items() if said not in (None, "")},
        **{key: str(said) for key, said in results.versions.items() if said},
    }
    if results.measure:
        facts["measure"] = ", ".join(f"{key} {said}" for key, said in results.measure.items())
    if results.options_changed:
        facts["options changed"] = ", ".join(f"{key} = {said}" for key, said in results.options_changed.items())
    heads = (Column("", number=False), Column("", number=False))
    grids = [Grid("Machine and versions", heads, tuple((key, cut(said)) for key, said in facts.items()))]
    own = _own_facts(material)
    if own:
        columns = (Column("configuration", number=False, code=True), Column("says", number=False))
        grids.append(Grid("What configurations say of themselves", columns, own))
    quoted = (("Again", results.command),) if results.command else ()
    return Section("environment", "Environment", (), tuple(grids), quoted)


def _own_facts(material: Material) -> tuple[tuple[str, str], ...]:
    rows = []
    for one in material.configurations:
        said = [f"{key}: {value}" for key, value in one.facts.items()]
        if one.parameters:
            said.append(f"{one.parameters:,} parameters")
        if one.environment:
            said.append(" ".join(f"{key}={value}" for key, value in one.environment.items()))
        if said:
            rows.append((one.name, cut("; ".join(said))))
    return tuple(rows)


def notices(material: Material) -> list[str]:
    """What to know before any number."""
    results = material.results
    said = []
    if results.ended is None:
        left = sum(one.state not in (MEASURED, "failed", "timed out") for one in material.configurations)
        many = len(material.configurations)
        said.append(f"not ended: {left} of {many} configurations are not done yet; the same command goes on")
    if results.quick:
        said.append("a quick run: fewer rounds, so wider intervals, and not every configuration")
    if material.left_out:
        said.append(f"{material.left_out} other configurations of the study were not asked for")
    if results.options_changed:
        changed = ", ".join(f"{key} = {value}" for key, value in results.options_changed.items())
        said.append(cut(f"with other options than the study's: {changed}"))
    if words := throttled_words(material):
        said.append(words[0].lower() + words[1:].rstrip("."))
    return said


def meaning_section() -> Section:
    """What the words mean."""
    heads = (Column("word", number=False), Column("means", number=False))
    return Section("meanings", "How to read it", (), (Grid("Words", heads, tuple(MEANINGS.items())),))
