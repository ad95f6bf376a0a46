"""What a report says of the work itself: which is fastest, what was run, and rounds of what was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.study import results
from tetrace.study.fastest import fastest_words
from tetrace.study.figures import value
from tetrace.study.material import Material
from tetrace.study.statistics import APART
from tetrace.study.surroundings import environment_section

OWN_BASELINES = """
title = "t"
question = "q"
[options]
layers = 4
learning_rate = 1e-4
flag = true
[[matrix]]
name = "main"
axes.recipe = ["none", "fp8"]
axes.approach = ["plain", "mixed"]
baseline = {approach = "plain"}
"""
SIZES = """
title = "t"
question = "q"
[options]
layers = 4
norm = "te"
batch = 8
[[matrix]]
name = "main"
baseline = {recipe = "none"}
axes.size.small = {batch = 2}
axes.size.large = {batch = 12}
axes.recipe = ["none", "fp8"]
[[matrix]]
name = "norm"
options = {norm = "torch"}
axes.recipe = ["none", "fp8"]
"""
NAMES = ("none-plain", "none-mixed", "fp8-plain", "fp8-mixed")
EVEN = (1.0, 1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999)
# Pairs of such rounds: from far below 1 to above.
WIDE = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
NOISY = (0.3, 0.5, 0.7, 1.0, 1.0, 1.3, 2.0, 3.0)
WORK = {"tokens": 4096, "flops": 10**12, "parameters": 1000}


def rounds(ms: float, factors=EVEN) -> list[float]:
    return [ms * factor for factor in factors]


def material(folder: Path, toml: str, times, fields=None, each=None, **facts) -> Material:
    """One configuration by name with ms of its rounds; `fields` of all, `each` of one more."""
    of = study(folder, toml)
    made = Made(of, **facts)
    for name, total in times.items():
        own = {"options": dict(of.configuration(name).options), **(fields or {}), **(each or {}).get(name, {})}
        made.measured(name, total=total, fields=own)
    return Material(made.write(folder / "results"), of)


def test_the_same_work_has_a_fastest_whatever_baselines_there_are(tmp_path):
    times = dict(zip(NAMES, map(rounds, (6.0, 4.0, 8.0, 3.0)), strict=True))
    times["none-mixed"] = rounds(3.3, WIDE)
    found = material(tmp_path, OWN_BASELINES, times, WORK)
    assert fastest_words(found) == (
        "Fastest: fp8-mixed, 3.000 ms a step, 2.667× (2.667 to 2.667) as fast as fp8-plain, not told apart from none-mixed"
    )


@pytest.mark.parametrize(
    "other", [{"tokens": 8192}, {"flops": 2 * 10**12}, {"parameters": 999}, {"flops": None}], ids=str
)
def test_other_work_has_none(tmp_path, other):
    times = dict(zip(NAMES, map(rounds, (6.0, 4.0, 8.0, 3.0)), strict=True))
    found = material(tmp_path, OWN_BASELINES, times, WORK, {"none-plain": other})
    assert fastest_words(found).startswith("Largest speed-up over its own baseline: fp8-mixed, 2.667×")


def test_work_that_nobody_counts_is_as_the_baselines_say(tmp_path):
    times = dict(zip(NAMES, map(rounds, (6.0, 4.0, 8.0, 3.0)), strict=True))
    assert fastest_words(material(tmp_path, OWN_BASELINES, times)).startswith("Largest speed-up over its own")


def test_what_never_ran_beside_the_fastest_is_said_to(tmp_path):
    """Not called slower, nor as fast: nothing tells."""
    of = study(tmp_path, OWN_BASELINES)
    made = Made(of)
    for name, ms, group in zip(NAMES, (6.0, 4.0, 8.0, 3.0), ("b", "b", "a", "a"), strict=True):
        made.measured(name, total=rounds(ms), rounds={"group": group}, fields=WORK)
    found = Material(made.write(tmp_path / "results"), of)
    assert found.speedup("fp8-mixed", "none-mixed").way == APART
    assert fastest_words(found) == (
        "Fastest: fp8-mixed, 3.000 ms a step, 2.667× (2.667 to 2.667) as fast as fp8-plain, 2 others never ran beside it"
    )


@pytest.mark.parametrize(
    ("graphs", "ms", "other", "more"),
    [
        ("true", rounds(1.0), {}, "; the same work takes 1.000 ms as graphs:none"),
        (
            "true",
            rounds(1.0),
            {"rounds": {"group": "b"}},
            "; the same work takes 1.000 ms as graphs:none, which never ran beside it",
        ),
        ("true", rounds(1.0), {"fields": {"tokens": 8192}}, ""),
        ("true", rounds(1.0), {"fields": {"context": "another"}}, ""),
        ("true", rounds(2.9, WIDE), {}, ""),  # not told to be less
        # It is the same configuration again, which then differs from itself by more than from the other.
        ("false", rounds(1.0), {}, ", not told apart from fp8"),
    ],
    ids=["beside", "never beside", "other work", "measured otherwise", "not told", "the same"],
)
def test_the_same_work_in_another_matrix_is_named_where_it_takes_less(tmp_path, graphs, ms, other, more):
    toml = f"""
    title = "t"
    [options]
    graphs = false
    [[matrix]]
    name = "main"
    axes.recipe = ["none", "fp8"]
    [[matrix]]
    name = "graphs"
    options = {{graphs = {graphs}}}
    axes.recipe = ["none", "fp8"]
    """
    of = study(tmp_path, toml)
    made = Made(of)
    for name, total in (("none", rounds(3.0)), ("fp8", rounds(6.0))):
        made.measured(name, total=total, rounds={"group": "a"}, fields=WORK)
    fields = {**WORK, **other.get("fields", {})}
    made.measured("graphs:none", total=ms, rounds=other.get("rounds", {"group": "a"}), fields=fields)
    found = Material(made.write(tmp_path / "results"), of)
    assert fastest_words(found) == f"Fastest: none, 3.000 ms a step{more}"


@pytest.mark.parametrize(
    ("small", "large", "words"),
    [
        # (ms, factors) of FP8, over 1 ms and 10 ms without.
        ((1.25, EVEN), (12.5, EVEN), "Nothing is faster than its baseline: at best "),
        (
            (1.1, WIDE),
            (12.5, EVEN),
            "No configuration is told to be faster than its baseline: at best small-fp8, 0.868× (0.649 to 1.299) as fast as "
            "small-none, not told apart from it, nor from the speed-up of large-fp8",
        ),
        (
            (1.1, NOISY),
            (12.5, EVEN),
            "No configuration is told to be faster than its baseline: rounds are too noisy to tell (small-fp8, 0.909× (0.303 to "
            "3.030) as fast as small-none)",
        ),
        # The larger median is the less certain one.
        (
            (0.9, WIDE),
            (9.9, EVEN),
            "Largest speed-up over its own baseline: large-fp8, 1.010× (1.010 to 1.010) as fast as large-none, not told apart "
            "from the speed-up of small-fp8",
        ),
    ],
)
def test_nothing_is_faster_only_where_every_interval_says_so(tmp_path, small, large, words):
    times = {
        "small-none": rounds(1.0), "small-fp8": rounds(*small), "large-none": rounds(10.0), "large-fp8": rounds(*large),
    }  # fmt: skip
    each = {name: {"tokens": 1024 if "small" in name else 8192} for name in times}
    found = material(tmp_path, SIZES, times, each=each)
    assert fastest_words(found).startswith(words)
    if not words.endswith(" "):
        assert fastest_words(found) == words


def grid(found: Material, title: str) -> tuple[tuple[str, ...], ...]:
    return next((one.rows for one in environment_section(found).grids if one.title == title), ())


def test_what_was_run_is_in_the_report(tmp_path):
    """What all share once; what only a matrix shares; what a value of an axis means, unless its name says it."""
    names = ("small-none", "small-fp8", "large-none", "large-fp8", "norm:none", "norm:fp8")
    of = study(tmp_path, SIZES)
    assert {one.name for one in of.configurations} == set(names)
    found = material(tmp_path, SIZES, {name: rounds(1.0) for name in names})
    assert grid(found, "What they ran with") == (
        ("all", "layers = 4"),
        ("main", "norm = te"),
        ("main, size small", "batch = 2"),
        ("main, size large", "batch = 12"),
        ("norm", "norm = torch, batch = 8"),
    )


def test_options_of_a_single_matrix(tmp_path):
    found = material(tmp_path, OWN_BASELINES, {name: rounds(1.0) for name in NAMES})
    assert grid(found, "What they ran with") == (("all", "layers = 4, learning_rate = 0.0001, flag = true"),)


@pytest.mark.parametrize(
    ("cpus", "words"), [(1, "kept on one processor at a time,"), (2, "kept on 2 processors at a time,"), (0, "")]
)
def test_where_configurations_ran(tmp_path, cpus, words):
    found = material(tmp_path, OWN_BASELINES, {NAMES[0]: rounds(1.0)}, measure={"rounds": 8, "cpus": cpus})
    said = [one for one in environment_section(found).said if "processor" in one]
    assert [words in one for one in said] == ([True] if words else [])


def test_what_configurations_say_alike_is_one_row(tmp_path):
    names = ("small-none", "small-fp8", "large-none", "large-fp8", "norm:none", "norm:fp8")
    each = {name: {"parameters": 1000 if name != "norm:fp8" else 2000} for name in names}
    found = material(tmp_path, SIZES, {name: rounds(1.0) for name in names}, each=each)
    assert grid(found, "What configurations say of themselves") == (
        ("all 4 of main, norm:none", "1,000 parameters"),
        ("norm:fp8", "2,000 parameters"),
    )


def stopped(folder: Path, many: int, state: str = results.INTERRUPTED) -> Material:
    """The second of two was stopped after so many rounds of 8."""
    of = study(folder, OWN_BASELINES)
    made = Made(of, measure={"rounds": 8}).measured("none-plain", total=rounds(6.0))
    losses = results.Losses.of([2.0, 1.0])
    made.measured("none-mixed", total=rounds(4.0)[:many], fields={"state": state, "key": "k", "losses": losses})
    return Material(made.write(folder / "results"), of)


@pytest.mark.parametrize("state", [results.INTERRUPTED, results.WAITING])
def test_rounds_of_what_was_stopped_count_where_there_are_enough(tmp_path, state):
    found = stopped(tmp_path, 6, state)
    one = found.configuration("none-mixed")
    assert one.is_timed
    assert found.rounds_words(one) == "6 of 8"
    assert found.time("none-mixed").rounds == 6
    assert found.speedup("none-mixed", "none-plain").value == pytest.approx(1.5)
    assert value(found, "total_ms", "none-mixed").known
    assert value(found, "speedup", "none-mixed").estimate.rounds == 6
    assert value(found, "first_loss", "none-mixed").known
    # How it would have ended is not known.
    for figure in ("last_loss", "finite"):
        assert state.replace("waiting", "not measured") in value(found, figure, "none-mixed").reason
    assert ("measure, last run", "rounds 8; rows are of 6 to 8 rounds") in grid(found, "Machine and versions")


@pytest.mark.parametrize("state", [results.INTERRUPTED, results.FAILED, results.TIMED_OUT])
def test_fewer_rounds_do_not_count_nor_do_those_of_what_failed(tmp_path, state):
    found = stopped(tmp_path, 5 if state == results.INTERRUPTED else 7, state)
    assert not found.configuration("none-mixed").is_timed
    assert found.time("none-mixed") is None
    assert not value(found, "speedup", "none-mixed").known
    assert found.rounds_words(found.configuration("none-plain")) == "8"


def test_what_was_stopped_in_another_context_is_not_compared(tmp_path):
    of = study(tmp_path, OWN_BASELINES)
    contexts = {key: {"versions": {"torch": key}} for key in ("1", "2")}
    made = Made(of, contexts=contexts).measured("none-plain", total=rounds(6.0), fields={"context": "1"})
    fields = {"state": results.INTERRUPTED, "context": "2", "key": "k"}
    made.measured("none-mixed", total=rounds(4.0), fields=fields)
    found = Material(made.write(tmp_path / "results"), of)
    assert found.speedup("none-mixed", "none-plain") is None
