"""From which size on one recipe pays: models of two recorded sizes, break-evens against brute force, errors shown."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from tests.breakdown.scaled import repeated
from tests.study.made import Made, study
from tetrace.breakdown.busy_categories import busy_by_category
from tetrace.study.material import Material
from tetrace.study.payoff import Model, Payoff, Recorded, Size, _with_intervals, break_even, payoffs
from tetrace.study.results import write
from tetrace.study.sizes import payoff_section
from tetrace.study.steps import read_steps
from tetrace.study.sweep import sweep_of
from tetrace.trace import store

TOML = """
title = "t"
question = "q"
[options]
seq = 512
[[matrix]]
name = "main"
axes.size.small = {batch = 2}
axes.size.large = {batch = 16}
axes.recipe = ["none", "fp8"]
baseline = {recipe = "none"}
[[matrix]]
name = "batch"
recording = false
axes.batch = [2, 4, 8, 16, 32]
axes.recipe = ["none", "fp8"]
baseline = {recipe = "none"}
[[sweep]]
matrix = "batch"
along = "batch"
group = "recipe"
baseline = "none"
title = "Batch"
"""
HOST_MS = {"none": 15.0, "fp8": 18.0}
FILES = {"none": "te4-bf16.sqlite", "fp8": "te4-fp8.sqlite"}


def model(host_ms: float, lines: dict[str, tuple[float, float]], known: bool = True) -> Model:
    """Of ms, and ms a token."""
    size = Recorded("r", Size(1, 1), {}, 0.0, 1.0, host_ms * 1e6)
    hosts = {"r": host_ms * 1e6} if known else {}
    return Model("g", {name: (a * 1e6, b * 1e6) for name, (a, b) in lines.items()}, hosts, host_ms * 1e6, (size, size))


@pytest.mark.parametrize(
    ("of", "against"),
    [
        # The host's time of one against the GPU's of the other, then two straight lines.
        (model(6.0, {"gemm": (0.5, 0.001)}), model(4.0, {"gemm": (0.1, 0.0016)})),
        (model(1.0, {"gemm": (3.0, 0.001)}), model(1.0, {"gemm": (1.0, 0.003)})),
        (model(6.0, {"gemm": (0.5, 0.001)}), model(4.0, {"gemm": (0.1, 0.0011), "attention": (0.0, 0.0001)})),
        (model(9.0, {"gemm": (0.0, 0.002)}, known=False), model(5.0, {"gemm": (1.0, 0.0015)})),
        (model(6.0, {"gemm": (0.0, 0.002)}), model(5.0, {"gemm": (0.0, 0.001)})),
    ],
)
def test_break_even_against_brute_force(of, against):
    def size(x: float) -> Size:
        return Size(100 * x, 1)

    def faster(x: float) -> bool:
        return of.step_ns(size(x)) < against.step_ns(size(x))

    changes, at_first = break_even(of, against, (1, 100), size)
    places = [1 + place / 1000 for place in range(99_001)]
    expected = [b for a, b in itertools.pairwise(places) if faster(a) != faster(b)]
    assert at_first == faster(1)
    assert [change.x for change in changes] == pytest.approx(expected, abs=2e-3)
    assert [change.tokens for change in changes] == pytest.approx([100 * x for x in expected], abs=0.2)
    assert [change.pays for change in changes] == [faster(x + 0.01) for x in expected]


def test_a_step_is_the_longer_of_host_and_gpu():
    one = model(6.0, {"gemm": (1.0, 0.01), "attention": (0.0, 0.001)})
    assert one.gpu_ns(Size(100, 4)) == pytest.approx((1.0 + 1.0 + 0.4) * 1e6)
    assert one.step_ns(Size(100, 4)) == pytest.approx(6e6)
    assert one.step_ns(Size(1000, 4)) == pytest.approx((1.0 + 10.0 + 4.0) * 1e6)
    # A line that would be below nothing is nothing.
    assert model(0.0, {"gemm": (-5.0, 0.01)}).gpu_ns(Size(100, 1)) == 0


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Two recorded sizes of each recipe, the larger one eight times the work; sizes in between are only timed."""
    folder: Path = tmp_path_factory.mktemp("payoff")
    of = study(folder, TOML)
    made = Made(of)
    for recipe, file in FILES.items():
        for size, batch in (("small", 2), ("large", 16)):
            path = folder / f"{size}-{recipe}.tetrace"
            store.write(repeated([batch / 2] * 9, name=file), path)
            # As those of the same options are timed: else these would tell nothing apart.
            ms = HOST_MS[recipe] if size == "small" else {"none": 25.6, "fp8": 24.0}[recipe]
            made.measured(f"{size}-{recipe}", recording=path, total=[ms] * 7, fields={"tokens": 512 * batch})
        for batch in (2, 4, 8, 16, 32):
            ms = max(HOST_MS[recipe], 1.6 * batch if recipe == "none" else 1.5 * batch)
            made.measured(f"batch:{batch}-{recipe}", total=[ms] * 7, fields={"tokens": 512 * batch})
    return Material(made.write(folder / "results"), of)


@pytest.fixture(scope="module")
def payoff(material: Material) -> Payoff:
    (found,) = payoffs(material, sweep_of(material, material.study.sweeps[0]))
    return found


def test_costs_are_the_recordings(material, payoff):
    """By category, the line through both recorded sizes; kernels that take eight times as long have no fixed part."""
    for made, recipe in ((payoff.of, "fp8"), (payoff.against, "none")):
        small, large = (material.breakdown(f"{size}-{recipe}") for size in ("small", "large"))
        for category, ns in busy_by_category(small).totals().items():
            fixed, each = made.lines[category]
            steps = small.totals.steps
            factor = 512 if category == "attention" else 1
            assert fixed + each * factor * 1024 == pytest.approx(ns / steps)
            assert fixed + each * factor * 8192 == pytest.approx(busy_by_category(large).totals()[category] / steps)
            assert abs(fixed) < 0.01 * ns / steps
        # At batch 8 the GPU works 13 ms of BF16's step, 12 of FP8's longer one.
        decided = [
            f"small-{recipe}",
            *(f"batch:{batch}-{recipe}" for batch in (2, 4, 8)[: 2 if recipe == "none" else 3]),
        ]
        assert made.hosts_ns == dict.fromkeys(decided, HOST_MS[recipe] * 1e6)
        assert [one.name for one in made.recorded] == [f"small-{recipe}", f"large-{recipe}"]


def test_predictions_and_their_errors(payoff):
    rows = {row.name: row for row in payoff.rows}
    assert len(rows) == 10
    for name, row in rows.items():
        made = payoff.of if name.endswith("fp8") else payoff.against
        assert row.predicted_ns == pytest.approx(max(made.host.value, made.gpu_ns(Size(row.tokens, 512))))
        assert row.error == pytest.approx(row.predicted_ns / row.measured_ns - 1)
        assert not row.recorded
    # GPU work is 3 ms at batch 2: at batch 8 the host is still what a step waits for, at 32 it is the GPU.
    assert rows["batch:8-none"].predicted_ns == HOST_MS["none"] * 1e6
    assert rows["batch:32-none"].predicted_ns > 40e6


def test_two_recorded_sizes_predict_all_others(payoff):
    """No time of another size: the host of the smaller one, and what the GPU works at both."""
    for row in payoff.rows:
        made = payoff.of if row.name.endswith("fp8") else payoff.against
        small = made.recorded[0]
        assert row.alone_ns == max(small.timed_ns, made.gpu_ns(Size(row.tokens, 512)))
    (change,), (alone,) = payoff.changes, payoff.alone
    assert alone.x == pytest.approx(change.x), "all hosts of a recipe need the same here"
    # A step that the GPU works through hides its host.
    worked = replace(payoff.of.recorded[0], timed_ns=payoff.of.gpu_ns(payoff.of.recorded[0].size) * 1.1)
    assert replace(payoff.of, recorded=(worked, payoff.of.recorded[1])).of_recorded is None


def test_where_it_pays(payoff):
    """FP8 asks more of the host and less of the GPU: slower at first, faster where BF16's GPU work is more than its host."""
    assert not payoff.pays_at_first
    (change,) = payoff.changes
    assert change.pays
    size = Size(change.tokens, 512)
    assert payoff.of.step_ns(size) == pytest.approx(payoff.against.step_ns(size), rel=1e-6)
    assert change.tokens == pytest.approx(512 * change.x)


def test_the_section(material, payoff):
    section = payoff_section(material, [sweep_of(material, material.study.sweeps[0])])
    (change,) = payoff.changes
    at = f"{change.x:,.1f}"
    assert section.said[1].startswith(
        f"Batch. Predicted: fp8 is slower than none at batch 2, faster from batch {at} ({at} to {at}) on ({change.tokens:,.0f} "
        "tokens a step). From the two recorded sizes alone: fp8 is slower than none at batch 2, faster from batch "
        f"{at} on ({change.tokens:,.0f} tokens a step). Measured: fp8 becomes faster than none at batch between "
    )
    assert "none: the host needs 15.000 ms for a step, timed at 3 sizes where the GPU waits for it." in section.said
    titles = [grid.title for grid in section.grids]
    assert titles == ["Batch, predicted and measured: fp8 and none", "What a step costs on the GPU: fp8 and none"]
    categories = [row[0] for row in section.grids[1].rows]
    assert {"gemm", "attention", "quantization"} <= set(categories)


def test_the_host_is_the_median_of_all_sizes_that_it_decides(material, tmp_path):
    """The recorded size was timed while somebody disturbed its host: no other step knows of that."""
    made = Made(material.study)
    for recipe in FILES:
        for size, batch in (("small", 2), ("large", 16)):
            ms = {"small": 30.0, "large": 24.0}[size]
            path = material.folder / f"{size}-{recipe}.tetrace"
            made.measured(f"{size}-{recipe}", recording=path, total=[ms] * 7, fields={"tokens": 512 * batch})
        for batch, ms in ((2, 16.0), (4, 15.0), (8, 15.5), (16, 24.0)):
            made.measured(f"batch:{batch}-{recipe}", total=[ms] * 7, fields={"tokens": 512 * batch})
    found = Material(made.write(tmp_path / "results"), material.study)
    (one,) = payoffs(found, sweep_of(found, material.study.sweeps[0]))
    assert sorted(ns / 1e6 for ns in one.against.hosts_ns.values()) == [15.0, 16.0, 30.0]
    assert one.against.host.value == 16e6
    # Each size is predicted by the others.
    rows = {row.name: row.predicted_ns / 1e6 for row in one.rows}
    assert (rows["batch:2-none"], rows["batch:4-none"], rows["batch:8-none"]) == (22.5, 23.0, 16.0)
    # From the recorded sizes alone, all hosts are as slow as theirs was.
    assert {row.alone_ns / 1e6 for row in one.rows if row.name in ("batch:2-none", "batch:8-fp8")} == {30.0}
    assert one.alone == ()
    assert (
        "; of the 8 that were not recorded, from these alone, by "
        in payoff_section(found, [sweep_of(found, material.study.sweeps[0])]).said[1]
    )
    assert "steps are off by " in payoff_section(found, [sweep_of(found, material.study.sweeps[0])]).said[1]


def test_a_place_has_the_interval_of_the_hosts():
    """From where the GPU's line of one crosses what the host of the other needs."""
    slow, fast = model(10.0, {"gemm": (0.0, 0.001)}), model(1.0, {"gemm": (0.0, 0.01)})
    of = replace(slow, hosts_ns={str(ms): ms * 1e6 for ms in (8.0, 9.0, 10.0, 10.5, 11.0, 12.0)})
    changes, _ = break_even(of, fast, (1, 20), lambda x: Size(100 * x, 1))
    (change,) = _with_intervals(changes, (of, fast), (1, 20), lambda x: Size(100 * x, 1))
    assert change.x == pytest.approx(10.25)
    assert change.between == pytest.approx((8.0, 12.0))
    # Where it may come or go, nothing is told.
    (change,) = _with_intervals(changes, (of, fast), (1, 11), lambda x: Size(100 * x, 1))
    assert change.between is None


def test_nothing_is_predicted_without_two_recordings(material, tmp_path):
    of = material.study
    made = Made(of)
    for recipe in FILES:
        for batch in (2, 4):
            made.measured(f"batch:{batch}-{recipe}", total=[1.0] * 7, fields={"tokens": 512 * batch})
    alone = Material(made.write(tmp_path), of)
    assert payoffs(alone, sweep_of(alone, of.sweeps[0])) == []
    assert payoff_section(alone, [sweep_of(alone, of.sweeps[0])]).empty


@pytest.mark.parametrize("other", ["large-fp8", "batch:2-none"])
def test_nothing_is_predicted_from_what_was_measured_otherwise(material, tmp_path, other):
    """A recording of another version, or a baseline of one."""
    changed = tuple(
        replace(one, context="another" if one.name == other else "one") for one in material.results.configurations
    )
    folder = tmp_path / "results"
    write(folder, replace(material.results, configurations=changed), read_steps(material.folder))
    for path in material.folder.glob("*.tetrace"):
        (folder / path.name).symlink_to(path.resolve(), target_is_directory=True)
    found = Material(folder, material.study)
    assert payoffs(found, sweep_of(found, material.study.sweeps[0])) == []
