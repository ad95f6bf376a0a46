"""The time of kernels in recordings, where steps are too noisy to tell: ratios, sweeps, and beside claims."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.breakdown import noise
from tetrace.breakdown.figures import BY_NAME
from tetrace.errors import InputError
from tetrace.study import resolve, spec
from tetrace.study.kernel_times import kernel_ratio
from tetrace.study.material import Material
from tetrace.study.recorded_clock import clock_ratio
from tetrace.study.report import Report
from tetrace.study.sizes import crossing_words, sweeps_section
from tetrace.study.spec import Sweep
from tetrace.study.statistics import STEPS, Estimate
from tetrace.study.sweep import FASTER, Crossing, Line, Point, Swept
from tetrace.study.value import MS, Value

FIGURE = "attention_kernels_ms"


@pytest.fixture(scope="module")
def attention() -> Material:
    folder = resolve.find("attention").folder
    return Material(folder / "results/h200", spec.read(folder))


@pytest.mark.parametrize("name", ["length:2048-fused", "length:2048-flash", "length:2048-unfused", "vanilla-by_hand"])
def test_the_figure_is_what_the_table_of_attention_adds_up_to(attention: Material, name: str) -> None:
    """With the products of unfused attention: its softmax alone would look faster than a fused kernel."""
    run = attention.run(name)
    assert not isinstance(run, str)
    rows = run.breakdown.tables["attention"].rows()
    assert BY_NAME[FIGURE].value(run) == pytest.approx(
        sum(row["total_ns"] for row in rows) / run.breakdown.totals.steps / 1e6
    )
    assert {row["direction"] for row in rows} >= ({"gemm", "forward", "backward"} if "unfused" in name else set())


def test_a_ratio_has_the_noise_of_a_difference_and_of_the_clock(attention: Material) -> None:
    names = ("length:512-flash", "length:512-fused")
    found = kernel_ratio(attention, FIGURE, *names)
    runs = [attention.run(name) for name in names]
    of, against = (BY_NAME[FIGURE].value(run) for run in runs)
    assert found is not None
    assert found.value == pytest.approx(against / of)
    half = noise.noise(*(BY_NAME[FIGURE].series(run) for run in runs)).difference[0]
    clock = clock_ratio(*(run.breakdown for run in runs))
    # The products are the same, and took 3.3% longer in the recording of FlashAttention.
    assert clock == pytest.approx(0.968, abs=0.001)
    assert found.low == pytest.approx((against - half) / of * clock)
    assert found.high == pytest.approx((against + half) / of / clock)
    back = kernel_ratio(attention, FIGURE, *names[::-1])
    assert back.value == pytest.approx(1 / found.value)
    assert back.high < 1 < found.low


def test_one_recording_is_not_told_from_itself(attention: Material) -> None:
    found = kernel_ratio(attention, FIGURE, "te-flash", "te-flash")
    assert (found.value, found.way) == (1.0, STEPS)
    assert found.low < 1 < found.high


def test_what_cannot_be_told(attention: Material, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert kernel_ratio(attention, FIGURE, "te-flash", "vanilla-by_hand") is None, "its attention is in no module"
    assert kernel_ratio(attention, "made_up_ms", "te-flash", "te-fused") is None
    of = study(tmp_path, 'title = "t"\n[[matrix]]\nname = "main"\naxes.way = ["a", "b"]\n')
    bare = Material(Made(of).measured("a", total=[1.0] * 8).measured("b", total=[2.0] * 8).write(tmp_path / "r"), of)
    assert kernel_ratio(bare, FIGURE, "a", "b") is None
    monkeypatch.setattr(noise, "FEWEST_STEPS", 100)
    found = kernel_ratio(attention, FIGURE, "te-flash", "te-fused")
    assert (found.low, found.high, found.rounds) == (None, None, 15)


def test_the_sweep_of_attention_says_which_kernels_are_faster(attention: Material) -> None:
    report = Report(attention)
    step, kernels = report.swept
    section = sweeps_section(report.swept)
    said = [line.removeprefix(f"{kernels.name}: ") for line in section.said if line.startswith(kernels.name)]
    number = r"\d\.\d{3}× \(\d\.\d{3} to \d\.\d{3}\)"
    assert re.fullmatch(
        rf"flash is faster than fused from seq 512 on; at 256 not told apart: {number} at 256 to {number} at 4,096\.",
        said[0],
    )
    assert re.fullmatch(
        rf"unfused is slower than fused at every .*, {number} at 256 to {number} at 8,192: they .*", said[1]
    )
    assert len(said) == 2
    grids = [grid for grid in section.grids if grid.title.startswith(kernels.title)]
    assert [len(grid.rows) for grid in grids] == [6]
    assert "no copies" in grids[0].note
    assert not step.is_recorded
    assert "is not told apart from fused" in section.said[0], "what timing alone tells"


def test_kernels_that_cross() -> None:
    points = tuple(
        Point(x, str(x), Value(Estimate.exact(1.0), unit=MS), Estimate(ratio, ratio - 0.01, ratio + 0.01, 0, STEPS))
        for x, ratio in ((256.0, 0.8), (1024.0, 1.25))
    )
    line = Line("flash", {}, points)
    swept = Swept(
        Sweep("length", "seq", "attention", "fused", FIGURE, "Kernels"), (line,), (Crossing(line, FASTER, 512, (256, 1024)),),
        is_recorded=True,
    )  # fmt: skip
    assert crossing_words(swept) == [
        "Kernels: flash becomes faster than fused at seq between 256 and 1,024, interpolated 512."
    ]
    untold = replace(points[0], ratio=Estimate(1.01, 0.9, 1.2, 0, STEPS))
    beside = replace(swept, lines=(Line("flash", {}, (untold, points[1])),), crossings=())
    assert crossing_words(beside) == [
        "Kernels: flash is faster than fused at seq 1,024; at 256 not told apart: 1.010× (0.900 to 1.200) at 256 to 1.250× "
        "(1.240 to 1.260) at 1,024."
    ]


def test_a_claim_on_a_step_says_what_is_so_of_its_kernels(attention: Material) -> None:
    judged = [one for one in Report(attention).judged if one.claim.beside]
    assert [one.claim.against for one in judged] == ["te-flash", "te_fp8-flash", "te-unfused", "te_fp8-unfused"]
    for one in judged:
        assert one.verdict == "cannot be told", "the verdict is on the step"
        assert one.value.words() in one.here
        said = {
            "te-flash": "it does not hold here: 0\\.9",
            "te_fp8-flash": "it cannot be told: 0\\.9",  # 0.939 (0.877 to 1.003): both ran at another clock
        }.get(one.claim.against, "it holds: 1\\.3")
        assert re.search(rf"; of attention kernels alone, as recorded, {said}\d\d× \(", one.why)
    bare = Report(Material(attention.folder, attention.study, recordings=False))
    whys = [one.why for one in bare.judged if one.claim.beside]
    assert all(why.endswith("of attention kernels alone it cannot be told: not recorded") for why in whys)


@pytest.mark.parametrize(
    ("figure", "beside", "says"),
    [
        ("speedup", "atention_kernels_ms", "is no time of a recording; did you mean attention_kernels_ms"),
        ("speedup", "idle_pct", "is no time of a recording"),
        ("memory_ratio", FIGURE, "stands beside a speedup; figure is 'memory_ratio'"),
    ],
)
def test_what_may_stand_beside_a_claim(tmp_path: Path, figure: str, beside: str, says: str) -> None:
    toml = (
        'title = "t"\n[[matrix]]\nname = "main"\naxes.way = ["a", "b"]\n[[claim]]\nsays = "s"\nof = "b"\nagainst = "a"\n'
        f'at_least = 1\nfigure = "{figure}"\nbeside = "{beside}"\n'
    )
    with pytest.raises(InputError, match=re.escape(says)):
        study(tmp_path, toml)
