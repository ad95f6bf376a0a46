"""The first words of a report: what is fastest, or gains most, as far as rounds can tell."""

from __future__ import annotations

import pytest

from tests.study.made import CALIBRATED, Made, study
from tests.study.stack import OWN_BASELINES, TOML, rounds
from tetrace.study.material import Material
from tetrace.study.measured import measured_section
from tetrace.study.report import Report, write
from tetrace.study.results import INTERRUPTED, TIMED_OUT
from tetrace.study.screen import stored


def test_what_the_noise_hides_is_not_called_fastest_of_all(tmp_path):
    """Delayed has the best median, in some pairs of rounds without being faster than none."""
    of = study(tmp_path, TOML)
    made = Made(of).measured("none", total=[1.0, 1.1, 1.0, 1.2, 1.0, 1.1, 1.0])
    made.measured("delayed", total=[0.9, 1.2, 0.9, 1.3, 0.9, 1.2, 0.9]).measured("graphs", total=[2.0] * 7)
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "**Fastest: delayed, 0.900 ms a step, not told apart from none; " in text


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (
            1.0,
            "Fastest: delayed, 0.950 ms a step, 1.053× (1.053 to 1.053) as fast as none; the same work takes 0.900 ms as ",
        ),
        (1.1, "Fastest: delayed, 0.950 ms a step, not told apart from none."),
    ],
)
def test_what_identical_configurations_differ_by_tells_nothing_apart(tmp_path, again, words):
    """As effects and claims have it: neither in rounds side by side nor in another matrix."""
    of = study(
        tmp_path, TOML + '[[matrix]]\nname = "again"\naxes.recipe.none = {}\naxes.recipe.other = {layers = 4, b = 1}\n'
    )
    made, work = Made(of), {"tokens": 1, "flops": 1}
    for name, ms in (("none", 1.0), ("delayed", 0.95), ("again:none", again), ("again:other", 0.9)):
        made.measured(name, total=[ms] * 8, fields=work)
    assert Report(Material(made.write(tmp_path / "results"), of)).lead.startswith(words)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (
            (1.0, 1.25, 10.0, 8.0),
            "Largest speed-up over its own baseline: large-fp8, 1.250× (1.250 to 1.250) as fast as large-none.",
        ),
        (
            (1.0, 0.5, 8.0, 4.0),
            "Largest speed-up over its own baseline: small-fp8, 2.000× (2.000 to 2.000) as fast as small-none, not told apart "
            "from the speed-up of large-fp8.",
        ),
        (
            (1.0, 1.25, 8.0, 16.0),
            "Nothing is faster than its baseline: at best small-fp8, 0.800× (0.800 to 0.800) as fast as small-none.",
        ),
        (
            (1.0, None, 10.0, None),
            "No configuration was measured beside its baseline; 2 of 4 configurations failed.",
        ),
    ],
)
def test_different_work_has_no_fastest(tmp_path, ms, words):
    """A small step is short, whatever it runs: what is named is what gains most over its own baseline."""
    of = study(tmp_path, OWN_BASELINES)
    made = Made(of)
    for name, one in zip(("small-none", "small-fp8", "large-none", "large-fp8"), ms, strict=True):
        tokens = {"tokens": 1024 if "small" in name else 8192}
        made = made.measured(name, total=rounds(one), fields=tokens) if one else made.failed(name, "E", "m")
    assert Report(Material(made.write(tmp_path / "results"), of)).short_verdict == words


def test_the_largest_speedup_is_that_of_all_matrices(tmp_path):
    """What runs the same as the best one under another name is not told apart from it anyway."""
    more = """
    [[matrix]]
    name = "larger"
    axes.size.huge = {size = 3}
    axes.recipe.none = {}
    axes.recipe.fp8 = {fp8 = true}
    baseline = {recipe = "none"}
    [[matrix]]
    name = "again"
    axes.size.huge = {size = 3}
    axes.recipe.none = {}
    axes.recipe.fp8 = {fp8 = true}
    baseline = {recipe = "none"}
    """
    of = study(tmp_path, OWN_BASELINES.replace("[[matrix]]", "[options]\nsize = 1\nfp8 = false\n[[matrix]]", 1) + more)
    made, tokens = Made(of), {"small": 1, "large": 2, "larger:huge": 3, "again:huge": 3}
    for size, fp8_ms in (("small", 1.1), ("large", 0.8), ("larger:huge", 0.5), ("again:huge", 0.5)):
        for recipe, ms in (("none", 1.0), ("fp8", fp8_ms)):
            made.measured(f"{size}-{recipe}", total=rounds(ms), fields={"tokens": tokens[size]})
    assert Report(Material(made.write(tmp_path / "results"), of)).short_verdict == (
        "Largest speed-up over its own baseline: larger:huge-fp8, 2.000× (2.000 to 2.000) as fast as larger:huge-none."
    )


def test_what_ran_into_its_limit_timed_out(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of).failed("none", "E", "m").state("delayed", TIMED_OUT).state("graphs", INTERRUPTED, key="k")
    assert Report(Material(made.measured("block", total=[1.0]).write(tmp_path / "results"), of)).short_verdict.endswith(
        "; 1 of 4 configurations failed; 1 of 4 configurations timed out; 1 of 4 configurations was not measured to its end."
    )


@pytest.mark.parametrize(("flops", "rate", "share"), [(400, "0.0004", "0.005%"), (4 * 10**9, "4,000.0", "50,000.0%")])
def test_what_a_small_workload_reaches_is_not_nothing(tmp_path, flops, rate, share):
    of = study(tmp_path, TOML)
    peaks = {"bf16_flops": 8e12, "measured_at": CALIBRATED}
    made = Made(of, peaks=peaks).measured("none", total=[0.001] * 7, fields={"flops": flops})
    (row,) = measured_section(Material(made.write(tmp_path / "results"), of)).grids[0].rows
    assert rate in row
    assert f"{share} of BF16" in row


def test_other_tokens_with_one_baseline_are_different_work(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of).measured("none", total=rounds(10.0), fields={"tokens": 100})
    made.measured("delayed", total=rounds(1.0), fields={"tokens": 5}).measured(
        "graphs", total=rounds(0.9), fields={"tokens": 5}
    )
    material = Material(made.write(tmp_path / "results"), of)
    assert Report(material).verdict.startswith("Largest speed-up over its own baseline: graphs, 11.111×")


@pytest.mark.parametrize("toml", [TOML, OWN_BASELINES], ids=["one baseline", "own baselines"])
def test_one_round_names_nothing_fastest_of_all(tmp_path, toml):
    of = study(tmp_path, toml)
    made = Made(of)
    for planned, ms in zip(of.configurations, (4.0, 2.0, 4.0, 1.0), strict=True):
        made.measured(planned.name, total=[ms])
    verdict = Report(Material(made.write(tmp_path / "results"), of)).verdict
    first, second = ("block, 1.000 ms", "delayed") if toml is TOML else ("large-fp8, 4.000×", "small-fp8")
    assert first in verdict
    assert "not told apart from" in verdict
    assert second in verdict.split("not told apart from")[1]


def test_what_became_of_a_claim_is_kept_whole(tmp_path):
    """It is the terminal that cuts it, where it is narrow."""
    why = f"it is {'very ' * 40}much about what no run measures"
    of = study(tmp_path, f'{TOML}\n[[claim]]\nsays = "It is stable"\nfigure = "none"\nwhy = "{why}"\n')
    folder = Made(of).measured("none", total=rounds(1.0)).write(tmp_path / "results")
    write(folder, of)
    page = stored(folder)
    assert page is not None
    assert any(row[-1] == why for row in page.grids[-1].rows)
