"""What stood around the measurement: compilation and warm-up, clocks, machine and versions, and how to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Column, Grid
from tetrace.study.results import FAILED, MEASURED, TIMED_OUT
from tetrace.study.section import NOTHING, Section, cut, several, without_empty

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration, Round

# What the words of a study's report mean; docs/study.md says the same (a test holds the two together).
MEANINGS = {
    "Configuration": "one value of each axis of the study's matrix, run in a process of its own.",
    "Round": "steps back to back, after the warm-up; rounds of all configurations that are alive take turns, so that drift "
    "of the clocks touches all alike. Others were not interleaved: a ratio of theirs has no interval.",
    "Step time": "the median over rounds of the median of each round's steps: on a GPU by CUDA events, from the first event "
    "of a step to that of the next.",
    "Phase time": "of a step, up to its mark: the forward's ends where the model's code says so.",
    "95% interval": "holds the true median in at least 95% of all studies, where rounds are independent; order statistics of "
    "rounds from six rounds on, Student's t around the mean of logarithms for fewer, none for one. What differs between two "
    "starts of a process is in no interval.",
    "Speed-up": "the baseline's time over the configuration's, as the median over pairs of rounds that ran side by side.",
    "Share of peak": "TFLOP/s of the matrix products that the model counts, of what tetrace doctor --calibrate measured of "
    "this GPU: of its FP8 peak where GEMMs ran in FP8, else of BF16; none where most of them ran in FP32 or TF32, or where peaks "
    "and rounds are of different starts of the machine. Calibrations of H200s reached 677 to 773 TFLOP/s in BF16 and "
    "1,275 to 1,410 in FP8: shares of two reports do not compare.",
    "Peak memory": "the largest allocation of torch during the measured rounds; what CUDA graphs keep in pools of their own "
    "is not in it.",
    "Recorded difference": "by how much an average steady step is longer in one recording than in the other; causes add up "
    "to it exactly. A recorder slows the host, so it is not the timed difference where a step waits for the host.",
    "Waiting": "the GPU idles; the row says for what, and in which range the host was then.",
    "Fastest": "of the first matrix, with what is not told apart from it; and the fastest configuration of another matrix, "
    "where it does the same work (tokens, operations, parameters) in a time whose whole interval is below; intervals are wider "
    "there by what identical configurations differ by.",
    "Verdict": "a claim holds, or does not hold here, where the whole interval is on one side of its limit; else it cannot "
    "be told. A ratio of times has to stay there when its interval is wider by what identical configurations differ by.",
    "Not recorded": "there is no recording, or the recorder did not write that table. It is never shown as 0.",
}


def startup_section(material: Material) -> Section:
    """What a configuration costs before it is warm: imports, construction, the first step with compilation."""
    rows = [_startup_row(material, one) for one in material.configurations if one.first_step_ns or one.import_ns]
    heads = [
        Column("configuration", number=False, code=True), Column("import s"), Column("build s"), Column("first step s"),
        Column("beside others"), Column("warm-up s", keep=1), Column("a warm step ms"), Column("first step more, s"),
    ]  # fmt: skip
    if not rows:
        return Section("startup", "Before it is warm")
    shown, lines = without_empty(heads, rows)
    said = "Each measured once: imports, construction, and the first step with its compilation and autotuning."
    if any(one.first_step_beside for one in material.configurations):
        said += (
            " A first step beside others ran while so many others had theirs: its time holds what they waited for one "
            "another, and is not compared."
        )
    return Section("startup", "Before it is warm", (said,), (Grid("Start of each configuration", shown, lines),))


def _startup_row(material: Material, one: Configuration) -> tuple[str, ...]:
    warm = material.time(one.name)
    more = NOTHING
    if warm and one.first_step_ns is not None:
        more = f"{(one.first_step_ns - warm.value) / 1e9:,.2f}"
    return (
        one.name,
        *(_seconds(ns) for ns in (one.import_ns, one.build_ns, one.first_step_ns)),
        str(one.first_step_beside) if one.first_step_beside else "",
        _seconds(one.warmup_ns),
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
        "date": f"{results.started} to {results.ended}"
        if results.ended
        else f"{results.started}, stopped before its end",
        **{key: str(said) for key, said in results.machine.items() if said not in (None, "")},
        **{key: str(said) for key, said in results.versions.items() if said},
    }
    if results.measure:
        last = ", ".join(f"{key} {said}" for key, said in results.measure.items())
        facts["measure, last run"] = f"{last}; {_rounds_words(material)}"
    if results.options_changed:
        facts["options changed"] = ", ".join(f"{key} = {said}" for key, said in results.options_changed.items())
    heads = (Column("", number=False), Column("", number=False))
    grids = [Grid("Machine and versions", heads, tuple((key, cut(said)) for key, said in facts.items()))]
    if options := tuple(_option_rows(material)):
        columns = (Column("configurations", number=False), Column("options", number=False))
        grids.insert(0, Grid("What they ran with", columns, options))
    if contexts := _contexts(material):
        columns = (Column("configurations", number=False), Column("measured with", number=False))
        grids.append(Grid("What surrounded them", columns, contexts))
    shared, own = _own_facts(material)
    said = tuple(filter(None, (cut(f"All configurations: {shared}.") if shared else "", _processor_words(material))))
    if own:
        columns = (Column("configurations", number=False), Column("says", number=False))
        grids.append(Grid("What configurations say of themselves", columns, own))
    quoted = (("Again", results.command),) if results.command else ()
    return Section("environment", "Environment", said, tuple(grids), quoted)


def _processor_words(material: Material) -> str:
    """That the host was not the one of a usual run; empty where the system placed the threads."""
    cpus = material.results.measure.get("cpus")
    if not isinstance(cpus, int) or cpus < 1:
        return ""
    where = "one processor at a time" if cpus == 1 else f"{cpus} processors at a time"
    return (
        f"Every configuration was kept on {where}, all threads that launch together: what waits for the host may wait longer, "
        "or less, than where the system places threads."
    )


def _option_rows(material: Material) -> Iterator[tuple[str, str]]:
    """The options that all configurations ran with, those that only a matrix shares, and what values of its axes set beside
    what they are called."""
    ones = [one for one in material.configurations if one.options]
    everywhere = _shared(ones)
    if everywhere:
        yield "all", _option_words(everywhere)
    matrices = list(dict.fromkeys(one.matrix for one in ones))
    for name in matrices:
        members = [one for one in ones if one.matrix == name]
        own = {key: value for key, value in _shared(members).items() if key not in everywhere}
        if own:
            yield name or "others", _option_words(own)
        planned = next((one for one in material.study.matrices if one.name == name), None)
        for axis, values in planned.axes.items() if planned else ():
            for label, value in values.items():
                fitting = [one for one in members if one.axes.get(axis) == label]
                sets = {key: said for key, said in _shared(fitting).items() if key in value.options}
                sets = {key: said for key, said in sets.items() if key not in own and key not in everywhere}
                if any(key != axis or str(said) != label for key, said in sets.items()):
                    where = f"{name}, " if len(matrices) > 1 else ""
                    yield f"{where}{axis} {label}", _option_words(sets)


def _shared(ones: Sequence[Configuration]) -> dict[str, Any]:
    """Options that have the same value in all."""
    first = dict(ones[0].options) if ones else {}
    # 1 and true are equal, and not the same.
    return {key: said for key, said in first.items() if all(repr(one.options.get(key)) == repr(said) for one in ones)}


def _option_words(options: Mapping[str, Any]) -> str:
    said = {key: str(one).lower() if isinstance(one, bool) else str(one) for key, one in options.items()}
    return cut(", ".join(f"{key} = {one}" for key, one in said.items()), 1200)


def _rounds_words(material: Material) -> str:
    """Of how many rounds the rows are, whatever the last run measured."""
    many = sorted({len(one.rounds) for one in material.configurations if one.is_timed})
    if not many:
        return "no row was measured"
    return f"rows are of {many[0]} rounds" if len(many) == 1 else f"rows are of {many[0]} to {many[-1]} rounds"


def _contexts(material: Material) -> tuple[tuple[str, str], ...]:
    """By context: its configurations, with the variables that change what is measured; where there are several, with what
    they differ in."""
    by_context: dict[str, list[str]] = {}
    for one in material.configurations:
        if one.context and one.rounds:
            by_context.setdefault(one.context, []).append(one.name)
    known = {digest: material.results.contexts.get(digest, {}) for digest in by_context}
    parts = list(dict.fromkeys(part for found in known.values() for part in found))
    differing = [part for part in parts if len({repr(found.get(part)) for found in known.values()}) > 1]
    rows = []
    for digest, names in by_context.items():
        shown = {part: known[digest].get(part) for part in dict.fromkeys([*differing, "environment"])}
        said = "; ".join(f"{part}: {_of_context(value)}" for part, value in shown.items() if value or part in differing)
        if said:
            rows.append((several(names), cut(said, 1200)))
    return tuple(rows)


def _of_context(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={said}" for key, said in value.items()) or "none"
    return str(value)


def _own_facts(material: Material) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What all configurations say of themselves, where there are several that say anything, and what only some do, those
    that say the same together."""
    by_name = {one.name: said for one in material.configurations if (said := _facts(one))}
    first = next(iter(by_name.values()), ())
    shared = [one for one in first if len(by_name) > 1 and all(one in said for said in by_name.values())]
    alike: dict[str, list[str]] = {}
    for name, said in by_name.items():
        if left := "; ".join(one for one in said if one not in shared):
            alike.setdefault(left, []).append(name)
    return "; ".join(shared), tuple((_members_words(material, names), cut(left)) for left, names in alike.items())


def _members_words(material: Material, names: Sequence[str]) -> str:
    """Some configurations in few words: all of a matrix by its name."""
    matrices, left, said = material.matrices(), list(names), []
    for matrix, members in matrices:
        own = [one.name for one in members]
        if len(matrices) > 1 and len(own) > 1 and set(own) <= set(names):
            said.append(f"all {len(own)} of {matrix}")
            left = [name for name in left if name not in own]
    return ", ".join([*said, *([several(left)] if left else [])])


def _facts(one: Configuration) -> tuple[str, ...]:
    said = [f"{key}: {value}" for key, value in one.facts.items()]
    if one.parameters:
        said.append(f"{one.parameters:,} parameters")
    said += [f"{key}={value}" for key, value in one.environment.items()]
    return tuple(said)


def _left_words(material: Material) -> str:
    """What a study that was stopped has not done yet; empty where it has done all."""
    ones = material.configurations
    left = sum(one.state not in (MEASURED, FAILED, TIMED_OUT) for one in ones)
    if left:
        return f"{left} of {len(ones)} configurations {_are(left)} not done yet"
    recorded = {planned.name for planned in material.study.configurations if planned.recording}
    wanted = [one for one in ones if one.name in recorded and one.state == MEASURED]
    # Those of another start were kept from an earlier run, which did not stop.
    missing = sum(
        one.recording_error is None and (one.recording is None or material.recorded_elsewhere(one.name) is not None)
        for one in wanted
    )
    return f"{missing} of {len(wanted)} recordings {_are(missing)} not made yet" if missing else ""


def _are(many: int) -> str:
    return "is" if many == 1 else "are"


def notices(material: Material) -> list[str]:
    """What to know before any number."""
    results = material.results
    said = []
    if results.ended is None and (left := _left_words(material)):
        said.append(f"not ended: {left}; the same command goes on")
    if results.quick:
        said.append("a quick run: fewer rounds, so wider intervals, and not every configuration")
    if material.left_out:
        said.append(f"{material.left_out} other configurations of the study were not asked for")
    if results.options_changed:
        changed = ", ".join(f"{key} = {value}" for key, value in results.options_changed.items())
        said.append(cut(f"with other options than the study's: {changed}"))
    if odd := [one.name for one in material.configurations if material.stale(one.name)]:
        first = f"{odd[0]} was {material.stale(odd[0])}"
        which = f"{len(odd)} configurations are" if len(odd) > 1 else "1 configuration is"
        said.append(cut(f"{which} not what the study plans now, and compared with nothing: {first}"))
    many_rounds = results.measure.get("rounds")
    if isinstance(many_rounds, int) and many_rounds > 1 and many_rounds % 2:
        said.append(
            f"{many_rounds} rounds: of an odd number, what drifts evenly does not quite cancel between those that go first and "
            "last; --repeat an even one"
        )
    if words := throttled_words(material):
        said.append(words[0].lower() + words[1:].rstrip("."))
    return said


def meaning_section() -> Section:
    """What the words mean."""
    heads = (Column("word", number=False), Column("means", number=False))
    return Section("meanings", "How to read it", (), (Grid("Words", heads, tuple(MEANINGS.items())),))
