"""What became of the numbers: first tensor that is not finite, saturation, health, and shapes that fail."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import tetrace
from tests.fp8.made import Made as Fp8
from tests.study.made import Made, study
from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.study.figures import value
from tetrace.study.material import Material
from tetrace.study.numerics import losses_section, numbers_section, numbers_words, origin_words, shapes_section
from tetrace.study.recorded import recorded_section
from tetrace.study.report import Report
from tetrace.study.results import Losses
from tetrace.study.screen import screen
from tetrace.study.section import Section
from tetrace.study.stability import Clipped, Numbers, numbers, refused
from tetrace.trace import store

TOML = """
title = "t"
question = "q"
[options]
hidden = 64
vocabulary = 50304
[recording]
arguments = ["--fp8"]
[[matrix]]
name = "main"
axes.vocabulary = [50304, 50264]
axes.recipe = ["none", "e4m3", "block"]
baseline = {recipe = "none"}
"""
LEADING = "Leading dimension requirement on A for FP8 GEMM. Caller must pad."
DIMS = (
    "FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the last dimension to be "
    "divisible by 16, but got tensor with dims=[4, 3, 50264] (product of leading dims = 12, last dim = 50264)"
)


def fp8_trace() -> Fp8:
    """A tensor that clips a quarter of its values in step 3, and an output that is NaN in step 4."""
    values = np.full((8, 8), 1.0)
    clipped = np.where(np.arange(64).reshape(8, 8) % 4 == 0, 1000.0, 1.0)
    return (
        Fp8()
        .site("autocast", recipe="DelayedScaling")
        .tensor(3, "layers.0.fc1.input", values, scale=1.0)
        .tensor(3, "layers.1.fc1.input", clipped, scale=1.0)
        .tensor(4, "layers.0.fc1.input", values, scale=1.0)
        .check(4, "layers.0.fc1.output", nans=2)
        .check(4, "(loss).loss", nans=1, elements=1)
    )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder: Path = tmp_path_factory.mktemp("stability")
    of = study(folder, TOML)
    path = folder / "fp8.tetrace"
    store.write(fp8_trace().trace(), path)
    return Material(
        Made(of)
        .measured("50304-none", total=[1.0] * 7, fields={"losses": Losses.of([10.9, 10.2, 10.4])})
        .measured("50304-e4m3", total=[1.0] * 7, recording=path, fields={"losses": Losses.of([10.9, float("nan"), float("inf")])})
        .measured("50304-block", total=[1.0] * 7)
        .failed("50264-e4m3", "RuntimeError", f"/a/b.cu:1 in function f: {LEADING}")
        .failed("50264-block", "ValueError", DIMS)
        .write(folder / "results"),
        of,
    )  # fmt: skip


def test_losses(material):
    (grid,) = losses_section(material).grids
    assert [column.head for column in grid.columns] == [
        "configuration",
        "first loss",
        "step 1",
        "last loss",
        "steps",
        "first not finite",
    ]
    assert grid.rows == (
        ("50304-none", "10.9000", "10.2000", "10.4000", "3", ""),
        ("50304-e4m3", "10.9000", "NaN", "Inf", "3", "step 1"),
    )  # fmt: skip


def losses(folder: Path, **by_name: list[float]) -> Section:
    """The section of losses of a study with these, by recipe."""
    made = Made(of := study(folder, TOML))
    for recipe, values in by_name.items():
        made = made.measured(f"50304-{recipe}", total=[1.0] * 7, fields={"losses": Losses.of(values)})
    return losses_section(Material(made.write(folder / "results"), of))


def test_a_loss_that_lags_is_seen_beside_its_baseline(tmp_path):
    """At the last step that both have; a baseline has none."""
    falling = [11.0 - 0.5 * step for step in range(22)]
    late = [11.0, 11.0, *falling[:-2]]
    (grid,) = losses(tmp_path, none=falling, e4m3=late, block=falling[:15]).grids
    assert [column.head for column in grid.columns][1:7] == [
        "first loss", "step 1", "step 10", "step 20", "last loss", "over its baseline's",
    ]  # fmt: skip
    assert grid.rows == (
        ("50304-none", "11.0000", "10.5000", "6.0000", "1.0000", "0.5000", "", "22"),
        ("50304-e4m3", "11.0000", "11.0000", "7.0000", "2.0000", "1.5000", "3.000× in step 21", "22"),
        ("50304-block", "11.0000", "10.5000", "6.0000", "–", "4.0000", "1.000× in step 14", "15"),
    )


@pytest.mark.parametrize(
    ("none", "e4m3", "empty"),
    [
        ([2.0] * 5, [2.0] * 5, True),
        ([2.0] * 5, [2.0, 2.001, 2.001, 2.0, 2.0], True),  # scales of FP8 change, weights do not
        ([2.0] * 5, [2.0, 2.1, 2.1, 2.0, 2.0], False),
        ([2.0, 1.5, 1.0, 0.9, 0.8], [2.0] * 5, False),  # what learns nothing beside what does is what to see
        ([2.0] * 5, [2.0, 2.0, float("nan"), 2.0, 2.0], False),
        ([2.0], [2.0], False),
    ],
)
def test_losses_of_what_trains_nothing_are_left_out(tmp_path, none, e4m3, empty):
    assert losses(tmp_path, none=none, e4m3=e4m3).empty == empty


def lost(at: int) -> Fp8:
    """A gradient that is wholly lost until a step, and what comes after it is zero until then."""
    run, values = Fp8().site("autocast", recipe="DelayedScaling"), np.full(64, 2.4e-4)
    for step in range(4):
        run.tensor(step, "lm_head.grad_output", values, scale=448 / 2.4e-4 if step >= at else 1.0)
        run.tensor(step, "fc1.grad_output", values * (step >= at), scale=448 / 2.4e-4 if step > at else 1.0)
    return run


def test_configurations_that_lose_gradients_are_named_together(tmp_path):
    of = study(tmp_path / "study", TOML)
    made = Made(of)
    for name, run in {
        "50304-e4m3": lost(1),
        "50264-e4m3": lost(1),
        "50264-block": lost(2),
        "50304-block": Fp8().tensor(0, "a.input", [1.0], scaling="current"),
    }.items():
        path = tmp_path / f"{name}.tetrace"
        store.write(run.trace(), path)
        made = made.measured(name, total=[1.0] * 7, recording=path)
    section = numbers_section(Material(made.write(tmp_path / "results"), of))
    assert section.said == (
        "In first steps, at a scale of 1 since nothing has set it yet, 3 of 4 configurations lose gradients wholly.",
    )
    (grid,) = [grid for grid in section.grids if grid.title.startswith("Gradients lost")]
    first = ("lm_head.grad_output", "amax 0.00024 at scale 1, 64 of 64 elements become zero")
    assert grid.rows == (
        ("50304-e4m3, 50264-e4m3", "2 of 2 gradients in step 0, 1 in step 1", "2, 1", *first),
        ("50264-block", "2 of 2 gradients in step 0, 2 in step 1, 1 in step 2", "2, 2, 1", *first),
    )


def test_the_answer_begins_with_what_became_of_the_numbers(tmp_path):
    of = study(tmp_path / "study", TOML)
    made = Made(of).measured("50304-none", total=[1.0] * 7, fields={"losses": Losses.of([11.0, 10.0])})
    for name, run, losses in (
        ("50304-e4m3", lost(1), [11.0, 11.0]),
        ("50264-e4m3", lost(2).tensor(0, "fc2.input", [1.0, 500.0, 2.0, 3.0], scale=1.0), [11.0, float("nan")]),
    ):
        path = tmp_path / f"{name}.tetrace"
        store.write(run.trace(), path)
        made = made.measured(name, total=[1.0] * 7, fields={"losses": Losses.of(losses)}, recording=path)
    assert numbers_words(Material(made.write(tmp_path / "results"), of)) == (
        "The loss of 1 of 3 configurations stops being finite: 50264-e4m3",
        "In 2 of 2 configurations in FP8 gradients become zero, since their first scale is 1: at most 2 of 2 in step 0, "
        "2 in step 1, 1 in step 2; lm_head.grad_output first",
        "At most 25.0% of a tensor is clipped (fc2.input of 50264-e4m3, step 0)",
    )


@pytest.mark.parametrize(
    ("last", "first", "note"),
    [
        (10.0, "Fastest: 50304-e4m3, 1.000 ms a step, 2.000× (2.000 to 2.000) as fast as 50304-none", ""),
        (math.nan, "The loss of 1 of 2 configurations stops being finite: 50304-e4m3", "loss NaN in step 1"),
        (math.inf, "The loss of 1 of 2 configurations stops being finite: 50304-e4m3", "loss Inf in step 1"),
    ],
)
def test_a_lost_loss_is_on_the_first_screen_of_any_study(tmp_path, last, first, note):
    """Also of one that records no FP8 statistics, or nothing: what computes NaN may well be the fastest."""
    of = study(tmp_path / "study", TOML.replace("--fp8", "--force"))
    made = Made(of)
    for recipe, ms, end in (("none", 2.0, 10.0), ("e4m3", 1.0, last)):
        made.measured(f"50304-{recipe}", total=[ms] * 7, fields={"losses": Losses.of([11.0, end])})
    report = Report(Material(made.write(tmp_path / "results"), of))
    assert report.verdict.startswith(f"{first}.")
    page = screen(report)
    assert page.verdict.startswith(f"{first}.")
    assert [row[-1] for row in page.grids[0].rows if row[-1].startswith("loss")] == ([note] if note else [])


CLAIM = '[[claim]]\nsays = "{figure}"\nof = "50304-e4m3"\nagainst = "50304-none"\nfigure = "{figure}"\nat_least = 1\n'
EXPECTED = '[[matrix.expected]]\nconfiguration = "50264-*"\n'


@pytest.mark.parametrize(
    ("more", "leads"),
    [
        ("", False),
        (EXPECTED, True),
        (CLAIM.format(figure="last_loss") + '[[claim]]\nsays = "n"\nfigure = "none"\n', True),
        (EXPECTED + CLAIM.format(figure="last_loss") + CLAIM.format(figure="speedup"), False),
        (CLAIM.format(figure="last_loss") + CLAIM.format(figure="speedup") + CLAIM.format(figure="first_loss"), True),
    ],
)
def test_where_a_study_asks_what_fails_that_leads(tmp_path, more, leads):
    """What it asks is seen by its claims, without those by failures that it expects."""
    of = study(tmp_path / "study", TOML + more)
    made = Made(of)
    for recipe, ms, last in (("none", 2.0, 10.0), ("e4m3", 1.0, 10.5)):
        made.measured(f"50304-{recipe}", total=[ms] * 7, fields={"losses": Losses.of([11.0, last])})
    report = Report(Material(made.failed("50264-e4m3", "E", "m").write(tmp_path / "results"), of))
    fastest = "Fastest: 50304-e4m3, 1.000 ms a step, 2.000× (2.000 to 2.000) as fast as 50304-none"
    losses = "The loss of each of 2 configurations stays finite"
    assert ("1 of 3 configurations failed" in report.fates) is not leads
    if leads:
        losses = f"1 of 3 configurations fails: vocabulary 50264 with recipe e4m3. {losses}"
    first, second = (losses, fastest) if leads else (fastest, losses)
    assert report.verdict.startswith(f"{first}. {second}. ")
    assert report.short_verdict.startswith(first)
    assert report.answers[0] == f"{second}."


def test_one_reason_of_many_configurations_is_one_row(tmp_path):
    """Also where it names the recording of each."""
    of = study(tmp_path / "study", TOML)
    made = Made(of).measured("50304-none", total=[1.0] * 7)
    for name in ("50304-e4m3", "50304-block", "50264-e4m3"):
        made = made.measured(name, total=[1.0] * 7, recording=tmp_path / "missing.tetrace")
    made = made.measured("50264-block", total=[1.0] * 7)
    section = numbers_section(Material(made.write(tmp_path / "results"), of))
    assert section.said == ()
    assert section.grids[0].rows == (
        ("50304-e4m3, 50304-block, 50264-e4m3", "not recorded: its recording is not in this folder", "", ""),
        ("50264-block", "not recorded", "", ""),
    )


def test_the_first_tensor_that_is_not_finite_and_what_is_clipped(material):
    found = numbers(material, "50304-e4m3")
    assert isinstance(found, Numbers)
    assert origin_words(found) == (
        "layers.0.fc1.output at step 4, at forward: 2 NaN of 64 elements, made by forward of layers.0.fc1"
    )
    assert (found.clipped.tensor, found.clipped.step, found.clipped.share) == ("layers.1.fc1.input", 3, 0.25)
    assert {problem.kind for problem in found.problems} >= {"non_finite", "saturation"}


def test_the_section_of_numbers(material):
    section = numbers_section(material)
    rows = {row[0]: row for row in section.grids[0].rows}
    assert rows["50304-e4m3"][2] == "25.0% of layers.1.fc1.input, step 3"
    assert rows["50304-block"][1] == "not recorded"
    assert "50304-none" not in rows
    assert [row[:4] for row in section.grids[2].rows][:1] == [
        ("50304-e4m3", "critical", "NaN or Inf begins here", "layers.0.fc1.output"),
    ]


def test_every_tensor_that_was_clipped_has_a_row(tmp_path):
    """By its worst observation, worst first; REPORT.md has some of each configuration, the page all."""
    values = np.full((8, 8), 1.0)
    made = Fp8().site("autocast", recipe="DelayedScaling")
    for number, parts in enumerate((64, 32, 16, 8, 4, 2, 64)):  # one of so many elements is beyond the largest value
        clipped = np.where(np.arange(64).reshape(8, 8) % parts == 0, 1000.0, 1.0)
        made = made.tensor(number, f"layers.{number}.fc1.input", clipped, scale=1.0)
        made = made.tensor(number + 1, f"layers.{number}.fc1.input", values, scale=1.0)
    path = tmp_path / "fp8.tetrace"
    store.write(made.tensor(0, "never.fc1.input", values, scale=1.0).trace(), path)
    of = study(tmp_path / "study", TOML)
    folder = Made(of).measured("50304-e4m3", total=[1.0] * 7, recording=path).write(tmp_path / "results")
    section = numbers_section(Material(folder, of))
    assert section.grids[1].title == "Clipped tensors, worst first: 5 of each configuration at most"
    assert section.grids[1].rows == tuple(
        ("50304-e4m3", f"layers.{number}.fc1.input", share, str(number), "1 of 2 observations")
        for number, share in ((5, "50.0%"), (4, "25.0%"), (3, "12.5%"), (2, "6.2%"), (1, "3.1%"))
    )
    assert [row[1] for row in section.more[0].rows][5:] == ["layers.0.fc1.input", "layers.6.fc1.input"]
    assert "never" not in repr(section.more[0].rows)


def test_a_code_at_the_largest_value_was_not_clipped_for_sure(tmp_path):
    """Nor was an amax of current scaling, which lies a rounding above it at most."""
    made = Fp8().tensor(0, "a.input", [1.0, 4.0], scale=448.0, source="quantized")
    made = made.tensor(0, "b.grad_output", [1.0, 4.0], scaling="current", saturated=1)
    paths = [tmp_path / f"{one}.tetrace" for one in ("codes", "some")]
    store.write(made.trace(), paths[0])
    store.write(made.tensor(0, "c.input", [1.0, 4.0, 1.0, 1.0], scale=448.0).trace(), paths[1])
    of = study(tmp_path / "study", TOML)
    of_runs = Made(of)
    for name, path in zip(("50304-e4m3", "50304-block"), paths, strict=True):
        of_runs = of_runs.measured(name, total=[1.0] * 7, recording=path)
    found = Material(of_runs.write(tmp_path / "results"), of)
    codes, some = numbers_section(found).grids[0].rows
    unknown = "; not known of 1 tensor seen as FP8 codes alone"
    assert (codes[2], some[2]) == (f"none{unknown}", f"25.0% of c.input, step 0{unknown}")
    assert [row[1] for row in numbers_section(found).grids[1].rows] == ["c.input"]
    clipped = [value(found, "max_saturation_pct", name).words() for name in ("50304-e4m3", "50304-block")]
    assert clipped == ["0%", "25%"]
    assert value(found, "gradient_clipped_pct", "50304-e4m3").words() == "0%"


def test_a_shape_error_says_what_to_pad_to(material):
    (one,) = refused(material, material.configuration("50264-e4m3"))
    assert (one.where, one.dimension, one.value, one.divisor, one.use, one.gemm) == (
        "option vocabulary", "out_features", 50264, 16, 50272, "dgrad (backward)",
    )  # fmt: skip


def test_an_error_with_its_dimensions_is_read(material):
    leading, last = refused(material, material.configuration("50264-block"))
    assert (leading.where, leading.dimension, leading.value, leading.divisor, leading.use) == (
        "tensor [4, 3, 50264]", "leading dimensions", 12, 8, 16,
    )  # fmt: skip
    assert (last.where, last.dimension, last.value, last.use) == (
        "option vocabulary",
        "last dimension",
        50264,
        50272,
    )


def test_a_recording_of_the_same_sizes_names_the_module(tmp_path):
    of = study(tmp_path, TOML)
    path = tmp_path / "bf16.tetrace"
    trace = (
        fp8_trace()
        .site("module", module="lm_head", **{"class": "Linear"})
        .site("gemm", module="lm_head", role="fprop", format="BF16", shape="4096x50264x64")
    )
    store.write(trace.trace(), path)
    made = (
        Made(of).measured("50264-none", total=[1.0] * 7, recording=path).failed("50264-e4m3", "RuntimeError", LEADING)
    )
    (one,) = refused(found := Material(made.write(tmp_path / "results"), of), found.configuration("50264-e4m3"))
    assert (one.where, one.dimension, one.value, one.use, one.source) == (
        "lm_head", "out_features", 50264, 50272, "the recording of 50264-none",
    )  # fmt: skip
    (grid,) = shapes_section(found).grids
    assert grid.rows[0][:6] == ("50264-e4m3", "lm_head", "out_features", "50264", "16", "50272")


def test_other_failures_are_no_shapes(material, tmp_path):
    made = Made(material.study).failed("50264-e4m3", "OutOfMemoryError", "CUDA out of memory")
    found = Material(made.write(tmp_path), material.study)
    assert refused(found, found.configuration("50264-e4m3")) == []
    assert shapes_section(found).empty


def test_our_own_statistics_are_left_out_of_what_the_gpu_works_and_that_is_said(tmp_path):
    said = []
    for name, toml in (("with", TOML), ("without", TOML.replace("--fp8", "--force"))):
        path = tmp_path / f"{name}.tetrace"
        store.write(lost(1).trace(), path)
        of = study(tmp_path / name, toml)
        made = Made(of).measured("50304-e4m3", total=[1.0] * 7, recording=path)
        said.append(recorded_section(Material(made.write(tmp_path / f"{name}-results"), of)).said[0])
    assert ["tetrace's own FP8 statistics" in words for words in said] == [True, False]


def test_what_the_gpu_works_in_a_real_recording(tmp_path):
    path = Path(__file__).parent.parent / "data/stability-e4m3.tetrace"
    run = tetrace.analyze(tetrace.load(path))
    own = run.kernels[run.kernels["category"] == INSPECTION]["total_ns"].sum()
    assert own > run.totals.busy_ns / 10
    of = study(tmp_path / "study", TOML)
    made = Made(of).measured("50304-e4m3", total=[1.0] * 7, recording=path)
    grid = recorded_section(Material(made.write(tmp_path / "results"), of)).grids[0]
    (works,) = (cell for head, cell in zip(grid.columns, grid.rows[0], strict=True) if head.head == "GPU works ms")
    assert float(works) == pytest.approx((run.totals.busy_ns - own) / run.totals.steps / 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("share", "codes_only", "most"), [(0.25, 0, 0.25), (0.25, 3, 0.25), (None, 0, 0.0), (None, 3, None)]
)
def test_what_was_clipped_most_is_not_0_where_only_codes_were_seen(share, codes_only, most):
    clipped = None if share is None else Clipped("a.weight", 2, share, 1, 9)
    worst = () if clipped is None else (clipped,)
    found = Numbers("one", None, clipped, worst, codes_only, (), "fine", observations=9, steps=3, checked=True)
    assert found.most_clipped == most
