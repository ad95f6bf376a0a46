"""Health: each problem appears with its cause, names tensor, step and number, and is gone when the cause is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tetrace.fp8
from tests.fp8.made import LARGEST, Made, bfloat16
from tetrace.errors import InputError
from tetrace.fp8.flags import Problem, share_words
from tetrace.fp8.health import KINDS, check_health
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.whatif import what_if
from tetrace.trace import store
from tetrace.trace.trace import Trace

RECORDINGS = Path(__file__).parent.parent.parent / "profiles/stability/results/h200"
NAME = "layers.2.mlp.fc1"


def problems(run: Made) -> list[Problem]:
    """What is found."""
    return list(check_health(run.trace()).problems)


def trained(
    steps: int = 8,
    amax: Callable[[int], float] = lambda step: 2.0,
    scale: Callable[[int], float] | None = None,
    process: int = 0,
    run: Made | None = None,
) -> Made:
    """A weight under delayed scaling whose scale follows its amax, unless `scale` says otherwise; the first is 1."""
    run, history = run or Made(), [0.0]
    used = 1.0
    for step in range(steps):
        values = bfloat16(np.linspace(-amax(step), amax(step), 64))
        used = scale(step) if scale else used
        run.tensor(step, f"{NAME}.weight", values, scale=used, process=process)
        history.append(amax(step))
        following = LARGEST["E4M3"] / max(history)
        next_scale = scale(step + 1) if scale else following
        run.update(step, f"{NAME}.weight", used, next_scale, amax(step), max(history[:-1]), process=process)
        used = next_scale
    return run


def normal(size: int = 4096) -> np.ndarray:
    return bfloat16(np.random.default_rng(0).normal(size=size))


def test_a_sound_run_is_healthy() -> None:
    health = check_health(trained().trace())
    assert health.problems == ()
    assert health.healthy
    assert str(health) == health.verdict
    assert health.verdict == "Healthy: nothing of what tetrace looks for in 1 tensor in 8 steps."


def test_what_came_after_the_last_step_is_no_whole_one() -> None:
    """An evaluation, or a step that was cut short; where nothing is trained every step is one."""
    run = Made()
    for step in range(3):
        run.tensor(step, f"{NAME}.input", [1.0, 2.0])
    assert check_health(run.trace()).seen == find_nonfinite(run.trace()).seen == "3 steps"
    for step in range(2):
        run.tensor(step, f"{NAME}.grad_output", [1.0, 2.0], phase="backward")
    assert check_health(run.trace()).seen == find_nonfinite(run.trace()).seen == "2 steps and a part of one more"
    assert "2 tensors in 2 steps and a part of one more" in check_health(run.trace()).verdict
    run.tensor(2, f"{NAME}.grad_output", [1.0, 2.0], phase="backward")
    assert check_health(run.trace()).seen == "3 steps"


class TestWithoutFp8:
    """A run whose tensors were looked at, and of which none was quantized, is not called healthy."""

    @staticmethod
    def run(bad: int = 0) -> Made:
        return Made().check(0, "a.output").check(1, "a.output", nans=bad).check(1, "a.weight")

    def test_all_finite(self) -> None:
        health = check_health(self.run().trace())
        assert (health.healthy, health.quantized, health.problems) == (False, 0, ())
        assert health.verdict == "Nothing that was looked at was quantized to FP8: 2 tensors in 2 steps, all finite."

    def test_not_finite(self) -> None:
        health = check_health(self.run(bad=1).trace())
        assert health.verdict.startswith(
            "Nothing that was looked at was quantized to FP8. 1 problem in 2 tensors in 2 steps. The worst: NaN"
        )

    def test_a_recording_of_bf16(self) -> None:
        health = check_health(store.read(RECORDINGS / "custom-none-0.tetrace"))
        assert health.verdict.startswith("Nothing that was looked at was quantized to FP8: ")


def test_notes_are_counted_beside_problems() -> None:
    run = Made().tensor(0, "a.input", [1e4, 1.0], scale=1.0, scaling="current")
    run.tensor(0, "b.input", np.append(np.ones(1999), np.full(5, 1e-9)), scale=1.0, scaling="current")
    assert check_health(run.trace()).verdict.startswith("1 problem, 1 note in 2 tensors in 1 step. The worst: ")


def test_an_infinity_is_critical_and_first() -> None:
    run = trained()
    run.tensor(7, f"{NAME}.input", [1.0, np.inf], scale=1e6).check(7, f"{NAME}.output", nans=1)
    first, *others = problems(run)
    assert (first.kind, first.level, first.name, first.first_step, first.number) == (
        "non_finite",
        "critical",
        f"{NAME}.input",
        7,
        1.0,
    )
    assert "then 1 more tensor" in first.evidence
    assert [one.kind for one in others] == ["saturation"]
    assert not check_health(run.trace()).healthy


class TestSaturation:
    """Values beyond the largest, weighed by how many and how far."""

    def test_a_weight_that_is_scaled_by_a_million(self) -> None:
        """Both what it does at once and that it happened are told, with tensor and step."""
        found = {one.kind: one for one in problems(trained(amax=lambda step: 2e6 if step >= 5 else 2.0))}
        assert set(found) == {"saturation", "jump"}
        assert found["saturation"].level == "critical"
        assert (found["saturation"].first_step, found["saturation"].last_step) == (5, 5)
        assert found["jump"].number == pytest.approx(1e6, rel=1e-2)
        assert (found["jump"].name, found["jump"].first_step) == (f"{NAME}.weight", 5)

    @pytest.mark.parametrize(
        ("clipped", "amax", "level"),
        [(1, 1.2, None), (1, 1.5, "warning"), (0, 1.0, None), (40, 1.2, "warning"), (400, 2.0, "critical")],
    )
    def test_how_much_is_how_bad(self, clipped: int, amax: float, level: str | None) -> None:
        values = np.full(4096, 0.25, np.float32)
        values[:clipped] = amax
        found = problems(Made().tensor(3, "a.input", values, scale=448.0))
        assert [one.level for one in found] == ([level] if level else [])
        assert all(one.number == clipped / 4096 and one.first_step == 3 for one in found)

    @pytest.mark.parametrize(
        ("times", "ran", "scaling", "margin"),
        [
            (1.9, 0, "delayed", "margin=1"),
            (2.1, 0, "delayed", "margin=2"),
            (4.0, 0, "delayed", "margin=2"),
            (4.1, 0, "delayed", ""),
            (25.2, 0, "delayed", ""),
            (1.9, 1, "delayed", "margin=2"),
            (1.9, 0, "block", ""),
        ],
    )
    def test_a_margin_is_told_of_where_it_is_enough(self, times: float, ran: int, scaling: str, margin: str) -> None:
        """One that makes the room that was missing, beside what the run had; far beyond only another recipe helps."""
        used = 448.0 / 2**ran
        run = Made().update(0, "a.input", scale=used, next_scale=used, amax=1.0)
        run.tensor(1, "a.input", np.append(np.full(60, 0.1), np.full(4, times * 2**ran)), scale=used, scaling=scaling)
        (found,) = problems(run)
        other = f" or {margin}" if margin else ""
        assert found.advice == (
            f"its amax grows faster than the history follows; see `tetrace fp8 whatif RUN recipe=current`{other}"
        )

    @pytest.mark.parametrize(
        ("values", "scaling", "lacks", "options", "settings"),
        [
            ([0.1, 3.0], "delayed", "histograms of magnitudes", "--fp8", "recipe=current"),
            ([1e-8, 0.9], "delayed", "histograms of magnitudes", "--fp8", "recipe=current"),
            ([1e-8, 0.9], "current", "histograms of magnitudes", "--fp8 --fp8-blocks", "recipe=block"),
            ([1e-8, 0.9], "current", "amaxes of blocks", "--fp8 --fp8-blocks", "recipe=block"),
        ],
    )
    def test_advice_that_this_recording_cannot_answer(
        self, values: list[float], scaling: str, lacks: str, options: str, settings: str
    ) -> None:
        """`tetrace fp8 whatif` ends with an error without histograms, and of block scaling without amaxes of blocks."""
        run = Made().tensor(1, "a.input", values, scale=448.0, scaling=scaling).trace()
        tables = {name: table for name, table in run.tables.items() if name != "fp8_histograms" or "blocks" in lacks}
        (found,) = check_health(Trace(run.metadata, tables)).problems
        assert (
            f"this recording has no {lacks}: record again with `tetrace record {options} COMMAND`, then see "
            f"`tetrace fp8 whatif NEW {settings}`"
        ) in found.advice
        with pytest.raises(InputError):
            what_if(Trace(run.metadata, tables), recipe=settings.removeprefix("recipe="))

    def test_an_amax_beyond_by_a_rounding_is_none(self) -> None:
        """Current scaling puts the amax at the largest value, or a rounding beyond it: also where all are equal."""
        value = next(x for x in np.linspace(1, 2, 999, dtype=np.float32) if x * (np.float32(448) / x) > 448)
        scale = float(np.float32(448) / value)
        run = Made().tensor(0, "a.input", np.full(100, value), scale=scale, scaling="current")
        assert run.tensors[0]["saturated"] == 100
        assert problems(run) == []

    def test_a_scale_that_is_still_one(self) -> None:
        run = Made().tensor(0, "a.input", [500.0, 1e5], scale=1.0).tensor(1, "a.input", [500.0, 1e5], scale=1e-3)
        (found,) = problems(run)
        assert "calibrating=True" in found.advice

    def test_codes_at_the_largest_value(self) -> None:
        columns = {"source": "quantized", "amax": 448.0, "elements": 1000, "zeros": 0}
        few = Made().tensor(0, "a.input", normal(1000), **{**columns, "saturated": 1, "scale": 1.0}, scaling="current")
        many = Made().tensor(0, "a.input", normal(1000), **{**columns, "saturated": 30}, scaling="current")
        assert [(one.level, one.title) for one in problems(few)] == [("note", "Codes at the largest value")]
        assert [(one.level, one.title) for one in problems(many)] == [("critical", "Codes at the largest value")]
        assert check_health(few.trace()).healthy
        assert check_health(few.trace()).verdict == "Healthy: 1 tensor in 1 step, with 1 note."


class TestUnderflow:
    """Values that become zero."""

    @pytest.mark.parametrize(("flushed", "level"), [(0, None), (5, "note"), (50, "warning"), (300, "critical")])
    def test_how_much_is_how_bad(self, flushed: int, level: str | None) -> None:
        values = np.ones(2000, np.float32)
        values[:1000] = 0  # zeros are none
        values[-flushed or 2000 :] = 1e-8
        found = problems(Made().tensor(0, "a.grad_output", values, scaling="current"))
        assert [one.level for one in found] == ([level] if level else [])
        assert all(one.number == flushed / 1000 for one in found)

    def test_a_gradient_in_e4m3_is_told_of_hybrid(self) -> None:
        values = np.append(np.ones(10), np.full(10, 1e-8))
        advice = {
            name: problems(Made().tensor(0, name, values, scale=1.0, scaling=scaling, format=kind))[0].advice
            for name, scaling, kind in (
                ("a.grad_output", "delayed", "E4M3"),
                ("a.input", "delayed", "E4M3"),
                ("b.grad_output", "current", "E5M2"),
            )
        }
        assert "format=HYBRID" in advice["a.grad_output"]
        assert "recipe=current" in advice["a.input"]
        assert "recipe=block" in advice["b.grad_output"]

    def test_the_step_before_the_first_update_does_not_count(self) -> None:
        values = np.append(np.ones(60), np.full(40, 1e-6))
        run = Made().tensor(0, "a.grad_output", values, scale=1.0).tensor(1, "a.grad_output", values, scale=400.0)
        assert run.tensors[0]["flushed"] == 40
        assert [one.first_step for one in problems(run)] == [1]


class TestScales:
    """Scales of delayed scaling, from its updates."""

    def test_never_set(self) -> None:
        run = Made()
        for step in range(3):
            run.tensor(step, "a.input", [2.0, 1.0], scale=1.0)
        (found,) = problems(run)
        assert (found.kind, found.level, found.number, found.first_step, found.last_step) == (
            "never_set",
            "warning",
            3,
            0,
            2,
        )
        run.tensor(3, "a.input", [2.0, 1.0], scale=2.0)
        assert problems(run) == []

    def test_one_step_at_one_is_how_it_begins(self) -> None:
        assert problems(Made().tensor(0, "a.input", [2.0, 1.0], scale=1.0)) == []

    def test_a_scale_that_is_reset_to_one(self) -> None:
        run = trained()
        run.updates[5]["scale"] = run.tensors[5]["scale"] = 1.0
        found = {one.kind: one for one in problems(run)}
        assert (found["scale_changed"].name, found["scale_changed"].first_step) == (f"{NAME}.weight", 5)
        assert found["scale_changed"].evidence == "step 5 used 1, the update before had set 224"
        assert found["scale_changed"].level == "critical"

    def test_steps_that_were_not_recorded_say_nothing_of_a_change(self) -> None:
        run = Made().update(0, "a.weight", 1.0, 8.0, amax=56.0).update(10, "a.weight", 2.0, 2.0, amax=200.0)
        run.tensor(0, "a.weight", [56.0], scale=8.0)
        assert problems(run) == []

    @pytest.mark.parametrize(("times", "level"), [(10, None), (40, "note"), (1000, "warning")])
    def test_stale(self, times: float, level: str | None) -> None:
        """An amax that was large once keeps the scale small for as long as the history holds it."""
        found = problems(trained(12, amax=lambda step: 2.0 * times if step < 2 else 2.0))
        # Before the first update such an amax is clipped.
        found = [one for one in found if one.kind != "saturation"]
        assert [(one.kind, one.level) for one in found] == ([("stale_scale", level)] if level else [])
        assert all(one.number == times and f"still holds {2 * times:.3g}" in one.evidence for one in found)

    def test_a_margin_is_not_stale(self) -> None:
        """2^4 of the range is kept free on purpose: next scale × history says so."""
        run = Made()
        for step in range(12):
            run.tensor(step, "a.weight", [2.0, 1.0], scale=14.0).update(step, "a.weight", 14.0, 14.0, amax=2.0)
        assert problems(run) == []

    def test_one_infinity_freezes_the_history(self) -> None:
        run = trained(4)
        run.update(4, f"{NAME}.weight", 224.0, 224.0, np.inf, 2.0).update(
            5, f"{NAME}.weight", 224.0, 224.0, 2.0, np.inf
        )
        (found,) = problems(run)
        assert (found.kind, found.number, found.first_step, found.last_step) == ("frozen_history", 1024, 4, 5)
        assert "stays 224" in found.evidence

    def test_amaxes_that_were_not_recorded_are_no_infinity(self) -> None:
        run = trained(4)
        run.updates[2]["amax"] = run.updates[2]["history_max"] = np.nan
        assert problems(run) == []

    def test_ranks_that_disagree(self) -> None:
        run = trained(run=trained(), process=1)
        assert problems(run) == []
        run.updates[3]["scale"] = run.updates[3]["next_scale"] = run.updates[2]["next_scale"] = 112.0
        found = [one for one in problems(run) if one.kind == "ranks_disagree"]
        assert [(one.name, one.first_step, one.number) for one in found] == [(f"{NAME}.weight", 3, 2.0)]
        assert "share their amaxes" in found[0].evidence
        run.site("autocast", recipe="DelayedScaling", reduce_amax=False)
        assert "ranks_disagree" not in [one.kind for one in problems(run)]

    def test_ranks_whose_amaxes_differ_do_not_have_to_agree(self) -> None:
        """Stages of a pipeline have modules of the same names."""
        run = trained(amax=lambda step: 3.0, run=trained(), process=1)
        health = check_health(run.trace())
        assert [(one.kind, one.level) for one in health.problems] == [("ranks_disagree", "note")]
        assert "no common amax_reduction_group" in health.problems[0].evidence
        assert health.healthy

    @pytest.mark.parametrize(
        ("role", "says"), [("grad_output", "in BF16, or recipe=current"), ("input", "calibrating=True")]
    )
    def test_what_helps_before_the_first_scale(self, role: str, says: str) -> None:
        (found,) = problems(Made().tensor(0, f"a.{role}", [1e4, 1.0], scale=1.0))
        assert (found.kind, says in found.advice) == ("saturation", True)

    def test_ties_are_in_the_order_in_which_they_ran(self) -> None:
        run = Made().tensor(0, "z.input", [1e4], scale=2.0).tensor(0, "a.input", [1e4], scale=2.0)
        assert [one.name for one in problems(run)] == ["z.input", "a.input"]

    def test_a_flag_that_its_quantizers_do_not_follow(self) -> None:
        def asked(flag: bool, made: bool) -> Made:
            run = Made().tensor(0, "a.input", [1.0], scaling="current")
            run.site("autocast", recipe="Float8CurrentScaling", use_power_2_scales=flag)
            return run.site("quantize", force_pow_2_scales=made)

        (found,) = problems(asked(True, False))
        assert (found.kind, found.name) == ("power_of_two", "")
        assert found.evidence == (
            "Float8CurrentScaling(use_power_2_scales=True), but its quantizers have force_pow_2_scales=False"
        )
        assert problems(asked(True, True)) == problems(asked(False, False)) == []


class TestAmax:
    """Amaxes that jump, and that stay zero."""

    def test_the_first_tensor_of_a_step_is_named(self) -> None:
        run = Made()
        for step in range(5):
            for layer in range(3):
                factor = 1e5 if step == 4 and layer >= 1 else 1.0
                run.tensor(step, f"{layer}.input", [2.0 * factor, factor], scale=1e-3, scaling="current")
        (found,) = problems(run)
        assert (found.kind, found.name, found.first_step) == ("jump", "1.input", 4)
        assert "then 1 more tensor" in found.evidence

    def test_a_tensor_that_just_began_does_not_jump(self) -> None:
        run = Made().tensor(0, "a.input", [0.01], scaling="current").tensor(1, "a.input", [100.0], scaling="current")
        assert problems(run) == []

    def test_a_gradient_that_never_arrives(self) -> None:
        run = Made()
        for step in range(3):
            run.tensor(step, "a.grad_output", np.zeros(8), scaling="current")
            run.tensor(step, "a.weight", np.zeros(8), scaling="current")
            run.tensor(step, "b.grad_output", np.zeros(8) if step < 2 else np.ones(8), scaling="current")
        found = [(one.kind, one.level, one.name) for one in problems(run)]
        assert found == [("amax_zero", "warning", "a.grad_output"), ("amax_zero", "note", "a.weight")]


def test_the_worst_is_first_and_ranks_are_named() -> None:
    run = Made()
    for process in range(3):
        clipped = process != 1
        run.tensor(0, "a.input", [1e4 if clipped else 1.0, 1.0], scale=1.0, scaling="current", process=process)
        run.tensor(0, "b.input", np.append(np.ones(99), 1e-9), scaling="current", process=process)
    found = problems(run)
    assert [(one.kind, one.ranks) for one in found] == [("saturation", "rank 0, rank 2"), ("underflow", "all 3 ranks")]
    assert check_health(run.trace()).verdict == (
        "2 problems in 2 tensors in 1 step. The worst: Saturation, a.input at step 0 "
        "(50.0% of elements clipped to ±448, amax 1e+04 is 22.3 times what fits)."
    )


def test_every_kind_has_its_place() -> None:
    """A check whose kind is not in the order would fail only where it finds something."""
    folder = Path(tetrace.fp8.__file__).parent
    source = "".join((folder / name).read_text() for name in ("health.py", "scale_health.py", "lost_gradients.py"))
    assert set(re.findall(r'kind="(\w+)"', source)) == set(KINDS)


def test_the_table_is_pandas() -> None:
    table = check_health(Made().tensor(0, "a.input", [1e4], scale=1.0, scaling="current").trace()).table
    assert table[["kind", "module", "role"]].to_numpy().tolist() == [["saturation", "a", "input"]]


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0"), (1, "100.0%"), (0.125, "12.5%"), (0.00123, "0.12%"), (2e-5, "0.002%"), (1e-9, "<0.0001%")],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert share_words(share) == words
