"""Budgets: what a file may say, what breaks it, and a slowdown that is told from noise."""

from __future__ import annotations

import pytest

from tests.breakdown.scaled import run_of, scattered
from tests.fp8.made import Made
from tests.report.runs import breakdown_of, recorded, three_steps
from tests.traces import Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import break_down
from tetrace.breakdown.budget import Budget, Limit, parse_budget
from tetrace.breakdown.check import BROKEN, KEPT, SKIPPED, check
from tetrace.breakdown.figures import BY_NAME, FIGURES, Run, words
from tetrace.breakdown.first_budget import budget_of
from tetrace.errors import InputError, UsageError

BF16, FP8 = "te4-bf16.sqlite", "te4-fp8.sqlite"
NOTHING = Budget({}, {}, ())


def status(text: str, name: str = FP8, baseline: str | None = None) -> dict[str, str]:
    """Status of each check of a recording in tests/data."""
    base = recorded(baseline) if baseline else None
    return {one.name: one.status for one in check(recorded(name), parse_budget(text, "b.toml"), base).checks}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nstepms = { max = 1 }", "no figure in [limits] is called 'stepms'; close to it are step_ms"),
        ("[limit]\n", "no section is called 'limit'; it may be limits, baseline, rows"),
        ("[limits]\nstep_ms = { maximum = 1 }", "no key of [limits] step_ms is called 'maximum'; it may be max, min"),
        ("[baseline]\nstep_ms = { max = 1 }", "no key of [baseline] step_ms is called 'max'; it may be max_ratio, min_ratio"),
        ("[baseline]\nstep = { max_ratio = 1 }", "no figure in [baseline] is called 'step'; close to it are step_ms"),
        ("[limits]\nstep_ms = 3", "[limits] step_ms = 3; give { max = ... } or { min = ... }"),
        ('[limits]\nstep_ms = { max = "3" }', "[limits] step_ms.max = '3'; give a number"),
        ("[limits]\nstep_ms = { max = true }", "give a number"),
        ("[limits]\nstep_ms = { max = nan }", "give a number"),
        ("[limits]\nstep_ms = { max = 1, min = 2 }", "min 2 is above max 1"),
        ("[limits]\nattention_backend = { max = 3 }", "give a word or a list of words"),
        ('[baseline]\nattention_backend = "x"', "a word has no ratio"),
        ("limits = 3", "[limits] = 3; give a table"),
        ("rows = 3", "write [[rows]] above each"),
        ('[[rows]]\ntable = "module"\ncolumn = "total_ns"\nmax = 1', "close to it are modules"),
        ('[[rows]]\ntable = "modules"\ncolumn = "total"\nmax = 1', "close to it are total_ns"),
        ('[[rows]]\ntable = "modules"\ncolumn = "total_ns"\nwhere = { modul = "x" }\nmax = 1', "close to it are module"),
        ('[[rows]]\ntable = "modules"\ncolumn = "total_ns"', "give { max = ... }"),
        ("", "limits nothing"),
        ("x = ", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ('[limits]\n"\x1b[31m" = 1'.replace("\x1b", "\\u001b"), "no figure in [limits] is called '\\x1b[31m'"),
        (f'[limits]\n"{"long" * 30_000}" = 1', "..."),
    ],
)  # fmt: skip
def test_what_a_budget_may_not_say(text: str, says: str) -> None:
    with pytest.raises((InputError, UsageError)) as raised:
        parse_budget(text, "b.toml")
    assert str(raised.value).startswith("b.toml: ")
    assert says in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\x1b" not in str(raised.value)


def test_limits_of_every_kind() -> None:
    text = """
    [limits]
    step_ms = { max = 18.5 }
    busy_ms = { max = 3 }
    fp8_coverage_pct = { min = 99.5 }
    weight_casts = { max = 15 }
    attention_backend = "FusedAttention"
    largest_saturation_pct = { max = 100 }
    [[rows]]
    name = "one MLP"
    table = "modules"
    where = { module = "LayerNormMLP.3" }
    column = "total_ns"
    max = 0.31
    [[rows]]
    table = "phases"
    where = { phase = "backward", category = "gemm" }
    column = "count"
    max = 31
    [[rows]]
    table = "modules"
    where = { module = "no such module" }
    column = "total_ns"
    max = 31
    """
    assert status(text) == {
        "step_ms": KEPT,
        "busy_ms": BROKEN,
        "fp8_coverage_pct": KEPT,
        "weight_casts": BROKEN,
        "attention_backend": KEPT,
        "largest_saturation_pct": BROKEN,
        "one MLP": KEPT,
        "phases backward gemm count": BROKEN,
        "modules no such module total_ns": BROKEN,
    }
    found = check(recorded(FP8), parse_budget(text, "b.toml"))
    saturation = next(one for one in found.broken if one.name == "largest_saturation_pct")
    assert (saturation.value, saturation.remark) == ("not recorded", "tetrace record --fp8 records it")
    assert next(one for one in found.broken if one.name.startswith("phases")).value == "32"


def test_what_is_known_as_codes_alone_is_not_told_to_be_clipped() -> None:
    made = Made().tensor(0, "a.input", [1.0, 4.0], scale=448.0, source="quantized")
    limit = Budget({"largest_saturation_pct": Limit(most=1.0)}, {}, ())
    (codes,) = check(break_down(attribute(made.trace()), steps="all"), limit).checks
    assert (codes.status, codes.value) == (BROKEN, "not recorded")
    assert codes.remark == "no tensor was seen before its cast: tetrace record --fp8 --fp8-recompute N"
    made.tensor(0, "b.input", [1.0, 4.0], scale=64.0)
    (both,) = check(break_down(attribute(made.trace()), steps="all"), limit).checks
    assert (both.status, both.value) == (KEPT, "0%")


def test_a_backend_that_is_not_allowed_breaks_the_budget() -> None:
    assert status('[limits]\nattention_backend = ["FlashAttention", "UnfusedDotProductAttention"]') == {
        "attention_backend": BROKEN
    }


def test_what_was_not_captured_breaks_a_limit_on_it() -> None:
    recording = three_steps()
    recording.calls.clear()
    found = check(breakdown_of(recording), Budget({"host_bound_ms": Limit(most=1e9)}, {}, ()))
    assert [(one.status, one.value) for one in found.checks] == [(BROKEN, "not recorded")]


def test_ratios_are_skipped_without_a_baseline_and_broken_where_nothing_was_recorded() -> None:
    text = "[baseline]\nstep_ms = { max_ratio = 1.1 }\nlaunches = { max_ratio = 1.1 }\nlargest_saturation_pct = { max_ratio = 2 }"
    assert set(status(text).values()) == {SKIPPED}
    assert status(text, FP8, BF16) == {
        "step_ms against the baseline": BROKEN,
        "launches against the baseline": BROKEN,
        "largest_saturation_pct against the baseline": BROKEN,
    }
    assert set(status(text.partition("\nlargest")[0], FP8, FP8).values()) == {KEPT}


def test_a_planted_slowdown_of_3_percent_is_caught_on_steps_with_1_percent_of_noise() -> None:
    base = run_of(scattered(10, 100))
    for seed in range(20):
        found = check(run_of(scattered(10, seed, slower=1.03)), NOTHING, base)
        assert [one.status for one in found.checks] == [BROKEN], seed
        assert found.checks[0].name == "step_ms against the baseline"


def test_20_reruns_without_a_slowdown_do_not_fail() -> None:
    base = run_of(scattered(10, 100))
    for seed in range(20):
        found = check(run_of(scattered(10, seed)), NOTHING, base)
        assert not found.broken, (seed, found.checks)
        assert found.checks[0].ratio_noise


def test_a_ratio_beyond_its_limit_and_within_noise_is_kept() -> None:
    (one,) = check(run_of(scattered(8, 3, 1.03, noise=0.1)), NOTHING, run_of(scattered(8, 8, noise=0.1))).checks
    assert one.ratio
    assert one.ratio > 1.015, "or this test shows nothing"
    assert (one.status, one.remark) == (KEPT, "within noise")


def test_too_few_steps_are_compared_as_they_are_and_say_so() -> None:
    (one,) = check(run_of([1.1] * 4), NOTHING, run_of([1.0] * 4)).checks
    assert (one.status, one.ratio_noise, one.remark) == (BROKEN, None, "too few steps to tell noise")


@pytest.mark.parametrize("name", [BF16, FP8, "ddp-straggler.sqlite", "graphs-node.sqlite", "kineto_qwen_h100.json.gz"])
def test_a_run_keeps_the_budget_that_was_made_of_it(name: str) -> None:
    text = budget_of(recorded(name), name)
    budget = parse_budget(text, "b.toml")
    assert not check(recorded(name), budget, recorded(name)).broken
    assert "step_ms" in budget.limits
    assert all(line.startswith(("#", "[", " ")) or "=" in line or not line for line in text.splitlines())


def test_a_budget_leaves_a_margin_and_what_scatters_more() -> None:
    calm = parse_budget(budget_of(run_of([1.0] * 10), "x"), "b.toml").limits["step_ms"].most
    wild = parse_budget(budget_of(run_of(scattered(10, 1, noise=0.2)), "x"), "b.toml").limits["step_ms"].most
    step = BY_NAME["step_ms"].value(Run(run_of([1.0] * 10)))
    assert calm
    assert wild
    assert isinstance(step, float)
    assert 1.049 < calm / step < 1.06
    assert wild > 1.1 * step


def test_the_margins_are_those_that_the_budget_names() -> None:
    text = budget_of(recorded(FP8), FP8)
    assert "Margins: 5% of times, 2% of launches, a point of percentages" in text
    limits, run = parse_budget(text, "b.toml").limits, Run(recorded(FP8))

    def value(name: str) -> float:
        found = BY_NAME[name].value(run)
        assert isinstance(found, int | float), name
        assert found > 0, name
        return found

    def most(name: str) -> float:
        limit = limits[name].most
        assert limit is not None, name
        return limit

    for name in ("step_ms", "busy_ms", "host_bound_ms"):
        assert most(name) >= 1.05 * value(name), name
    assert most("launches") >= 1.02 * value("launches")
    assert most("quantization_pct") >= value("quantization_pct") + 1
    least = limits["fp8_coverage_pct"].least
    assert least is not None
    assert 0 < least <= value("fp8_coverage_pct") - 1
    assert most("weight_casts") == value("weight_casts")


def test_names_in_a_budget_are_one_line_of_a_comment() -> None:
    text = budget_of(recorded(FP8), 'x"\n[limits]\nstep_ms = { max = 0 }\x1b[31m\u202e' + "long" * 30_000)
    assert parse_budget(text, "b.toml").limits["step_ms"].most == 19.4
    assert max(map(len, text.splitlines())) < 200
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("name", [BF16, FP8, "ddp-straggler.sqlite", "graphs-node.sqlite", "kineto_qwen_h100.json.gz"])
def test_figures_are_those_of_the_breakdown(name: str) -> None:
    run = Run(recorded(name))
    totals, steps = run.breakdown.totals, run.breakdown.totals.steps
    value = {figure.name: figure.value(run) for figure in FIGURES}
    assert value["step_ms"] == pytest.approx(totals.wall_ns / steps / 1e6)
    assert value["host_bound_ms"] == pytest.approx(totals.idle_ns["host_bound"] / steps / 1e6)
    assert value["unattributed_pct"] == pytest.approx(100 * totals.unattributed_module_ns / totals.activity_ns)
    assert value["unattributed_phase_pct"] == pytest.approx(100 * totals.unattributed_phase_ns / totals.activity_ns)
    bounds, covered = run.breakdown.quantization_bounds, run.breakdown.fp8_coverage
    assert value["quantization_ms"] == pytest.approx(bounds.lower_ns / steps / 1e6)
    assert value["quantization_upper_pct"] == pytest.approx(100 * bounds.upper_ns / totals.activity_ns)
    assert value["fp8_coverage_pct"] == pytest.approx(100 * covered.fp8_ns / covered.gemm_ns)
    assert value["exposed_communication_ms"] == pytest.approx(totals.exposed_communication_ns / steps / 1e6)


def test_series_are_the_figure_step_by_step() -> None:
    run = Run(recorded("ddp-straggler.sqlite"))
    for figure in FIGURES:
        series = figure.series(run)
        if series is not None:
            assert float(series.sums.sum() / series.weights.sum()) == pytest.approx(figure.value(run)), figure.name


def test_figures_of_a_run_without_a_gpu_were_not_recorded() -> None:
    run = Run(breakdown_of(Recording().range("step_0", 0, 10)))
    said = {words(figure, figure.value(run)) for figure in FIGURES if figure.name != "dropped_records"}
    assert said == {"not recorded"}
