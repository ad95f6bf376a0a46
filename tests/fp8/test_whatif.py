"""What-if answers: histories of delayed scaling, what a row says, the verdict against what ran, and what may be asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tetrace
from tests.fp8.drawn import NAME, drawn, used
from tests.fp8.made import Made, counts
from tetrace.errors import InputError, UsageError
from tetrace.fp8.health import check_health
from tetrace.fp8.observations import tensors
from tetrace.fp8.settings import parse
from tetrace.fp8.whatif import WhatIf, what_if

DATA = Path(__file__).parents[1] / "data"


class TestDelayedHistory:
    """Scales of delayed scaling are made of the amaxes of earlier steps; recordings of which the start was not recorded."""

    @staticmethod
    def rising() -> Made:
        """Amaxes 2, 4, 8, ... of a run with current scaling."""
        run = Made()
        for step in range(1, 7):
            run.tensor(step, NAME, [2.0**step, 1.0], scaling="current")
        return run

    def test_a_tensor_that_grows_is_clipped_in_every_step(self) -> None:
        (row,) = what_if(self.rising().trace(), recipe="delayed", history=3).rows
        assert (row.steps, row.history, row.saturated_lower, row.saturated_upper) == (5, 3, 0.5, 0.5)

    def test_a_margin_of_one_holds_it(self) -> None:
        (row,) = what_if(self.rising().trace(), recipe="delayed", history=3, margin=1).rows
        assert row.saturated_upper == 0

    @pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 40, 1024])
    def test_the_history_is_that_of_so_many_steps(self, length: int) -> None:
        random = np.random.default_rng(length)
        amaxes = [float(np.float32(2.0**e)) for e in random.uniform(-3, 3, 60)]
        run = Made()
        for step, amax in enumerate(amaxes, 1):
            run.tensor(step, "other.input", [amax * 9], scaling="current").tensor(step, NAME, [amax], scaling="current")
        found = what_if(run.trace(), recipe="delayed", history=length).rows
        row = next(row for row in found if row.name == NAME)
        clipped = 0
        for step in range(1, 60):
            scale = np.float32(448) / np.float32(max(amaxes[max(step - length, 0) : step]))
            clipped += bool(np.float32(amaxes[step]) * scale > 448)
        assert (row.steps, row.history) == (59, min(length, 59))
        assert row.saturated_lower == row.saturated_upper == clipped / 59

    def test_most_recent_needs_one_step_of_history(self) -> None:
        """Of a history whose length nobody asked for nothing is said to be missing."""
        trace = tetrace.load(DATA / "stability-e4m3.tetrace")
        assert what_if(trace, algorithm="most_recent").wanted_history == 1
        assert what_if(trace, algorithm="most_recent", history=64).wanted_history == 64

    @pytest.mark.parametrize("algorithm", ["max", "most_recent"])
    def test_a_step_whose_amax_is_zero_takes_no_place(self, algorithm: str) -> None:
        """Transformer Engine does not roll the history then (delayed_scaling.cu), and leaves the scale as it was."""
        run = Made()
        for step, amax in enumerate([8.0, 0.0, 0.0, 8.0, 4.0, 0.0], 1):
            run.tensor(step, NAME, [amax], scaling="current")
        (row,) = what_if(run.trace(), recipe="delayed", history=1, algorithm=algorithm).rows
        assert (row.steps, row.history, row.saturated_upper, row.flushed_upper) == (2, 1, 0, 0)

    @pytest.mark.parametrize("scaling", ["delayed", "current"])
    def test_each_micro_batch_is_an_update(self, scaling: str) -> None:
        """Transformer Engine updates scales at the end of each outermost autocast: the second is cast by the first."""
        run = Made()
        for step in range(1, 4):
            for amax in (1.0, 100.0):
                run.tensor(step, NAME, [amax, 0.5], scale=448.0, scaling=scaling)
                run.tensor(step, "a.grad_output", [1.0], scaling="current", phase="backward")
                if scaling == "delayed":
                    run.update(step, NAME, 448.0, 448 / 100, amax=amax, history_max=100.0)
        found = what_if(run.trace(), recipe="delayed", history=1).rows
        row = next(row for row in found if row.name == NAME)
        # Of each pair the second is clipped; the first of all is left out.
        assert row.saturated_lower == row.saturated_upper == 3 / 10
        assert row.history == 1

    def test_a_module_that_runs_twice_in_an_autocast_has_one_update(self) -> None:
        run = Made()
        for step in range(1, 4):
            run.tensor(step, NAME, [1.0], scaling="current").tensor(step, NAME, [100.0], scaling="current")
        (row,) = what_if(run.trace(), recipe="delayed", history=1).rows
        assert (row.steps, row.saturated_upper) == (2, 0)

    @pytest.mark.parametrize("length", [1, 2, 4])
    def test_an_inf_freezes_the_scale_while_it_is_in_the_history(self, length: int) -> None:
        amaxes = [1.0, 1.0, 1.0, np.inf, 1.0, 10.0, 10.0, 10.0, 10.0, 10.0]
        run, clipped, scale = Made(), 0, np.nan
        for step, amax in enumerate(amaxes):
            run.tensor(step + 1, NAME, [amax, 0.5], scaling="current")
            before = max(amaxes[max(step - length, 0) : step], default=np.inf)
            scale = 448 / before if np.isfinite(before) else scale
            clipped += bool(np.isfinite(amax) and amax * scale > 448)
        (row,) = what_if(run.trace(), recipe="delayed", history=length).rows
        assert (row.steps, row.elements) == (8, 16)
        assert row.saturated_lower == row.saturated_upper == clipped / 16
        assert clipped == {1: 1, 2: 1, 4: 3}[length]

    def test_most_recent(self) -> None:
        run = Made()
        for step, amax in enumerate([8.0, 1.0, 4.0], 1):
            run.tensor(step, NAME, [amax], scaling="current")
        (by_max,) = what_if(run.trace(), recipe="delayed", history=4).rows
        (newest,) = what_if(run.trace(), recipe="delayed", history=4, algorithm="most_recent").rows
        assert (by_max.saturated_upper, newest.saturated_upper) == (0, 0.5)

    def test_what_is_not_set_yet_stays_one(self) -> None:
        """The first step of a run uses a scale of 1 in any format and with any margin."""
        run = Made().tensor(0, NAME, [500.0, 1.0], scale=1.0).tensor(1, NAME, [500.0, 1.0], scale=0.5)
        (row,) = what_if(run.trace(), margin=4).rows
        assert row.saturated_lower == row.saturated_upper == 0.25

    def test_one_step_has_no_history(self) -> None:
        found = what_if(Made().tensor(7, NAME, [1.0], scaling="current").trace(), recipe="delayed")
        assert (found.rows, found.unanswered) == ((), {"no amax of an earlier step": 1})

    def test_the_margin_that_ran_is_known_from_its_scales(self) -> None:
        """margin=1 of a run with margin 2 doubles its scales."""
        run = used(np.array([4.0, 1.0], np.float32), 100.0, "E4M3")
        run.update(0, NAME, 2.0, 448 / 4 / 4.0, amax=4.0).update(1, NAME, 28.0, 28.0, amax=4.0)
        (same,) = what_if(run.trace(), margin=2).rows
        (doubled,) = what_if(run.trace(), margin=1).rows
        assert (same.saturated_upper, doubled.saturated_upper) == (0, 0.5)


class TestTheStartOfARun:
    """Delayed scaling begins at a scale of 1, and stays there until a step has given the history an entry."""

    @staticmethod
    def gradients(first: int) -> Made:
        """Of a run with current scaling: one that E4M3 flushes at scale 1, and from step 1 on another; one that fits."""
        run = Made()
        for step in range(first, first + 3):
            run.tensor(step, NAME, [1.0, 0.5], scale=448, scaling="current")
            run.tensor(step, "a.grad_output", [1e-5, 2e-5] if step else [0.0, 0.0], scale=2e7, scaling="current")
            run.tensor(step, "b.grad_output", [1e-4, 2e-4], scale=2e6, scaling="current")
        return run

    def test_what_delayed_scaling_lost_it_would_have_lost(self) -> None:
        """The same model and seed was recorded with both."""
        results = Path(__file__).parents[2] / "profiles" / "stability" / "results" / "h200"
        with_current, delayed = (tetrace.load(results / f"fused-{one}-0.tetrace") for one in ("current", "e4m3"))
        found = what_if(with_current, recipe="delayed", format="E4M3")
        lost = {row.name for row in found.rows if row.unset_steps}
        (problem,) = (one for one in check_health(delayed).problems if one.kind == "lost_gradients")
        assert "17 of 17 gradients in step 0" in problem.evidence
        rows = tensors(delayed)
        # Zero from the start or flushed, at a scale of 1: all that come after the first one that is lost are zero.
        # What codes flushed is not known (-1): they are zero.
        lost_elements = rows["zeros"] + np.maximum(rows["flushed"], 0)
        nothing_left = (rows["scale"] == 1) & (lost_elements == rows["elements"])
        recorded = np.flatnonzero((rows["step"] == 0) & nothing_left)
        assert lost == {rows.name(place) for place in recorded.tolist()}
        assert len(lost) == problem.tensors == 17
        assert (str(found.flushed), found.steps_left_out, found.first_step) == ("0 → 17", (), None)

    def test_the_scale_is_1_until_the_history_has_an_entry(self) -> None:
        rows = {row.name: row for row in what_if(self.gradients(0).trace(), recipe="delayed").rows}
        assert {name: (row.steps, row.unset_steps) for name, row in rows.items()} == {
            NAME: (3, 0),
            "a.grad_output": (2, 1),
            "b.grad_output": (3, 1),
        }
        assert rows["b.grad_output"].flushed == (1 / 3, 1 / 3)

    def test_a_wider_format_loses_less_there(self) -> None:
        found = what_if(self.gradients(0).trace(), recipe="delayed", format="HYBRID")
        assert [row.unset_steps for row in found.rows] == [0, 0, 0]

    def test_a_start_that_was_not_recorded_is_told(self) -> None:
        found = what_if(self.gradients(5).trace(), recipe="delayed")
        assert found.first_step == (5, 3, 3, 2)
        assert found.verdict.endswith(
            ". The recording does not hold the run's start: from scratch, delayed scaling begins at scale 1, where 2 of 3 "
            "tensors would lose 50% or more of what is not zero, by step 5."
        )
        assert what_if(self.gradients(5).trace(), recipe="current").first_step is None

    def test_of_what_the_first_recorded_step_lacks_it_is_not_known(self) -> None:
        run = Made().tensor(5, NAME, [1.0], scaling="current")
        for step in (6, 7):
            run.tensor(step, NAME, [1.0], scaling="current").tensor(step, "a.grad_output", [1e-5], scaling="current")
        assert what_if(run.trace(), recipe="delayed").verdict.endswith(
            "where 0 of 1 tensor would lose 50% or more of what is not zero, by step 5; of 1 more that is not known."
        )
        none = Made().tensor(5, NAME, [0.0], scaling="current").tensor(6, NAME, [1.0], scaling="current")
        assert what_if(none.tensor(7, NAME, [1.0], scaling="current").trace(), recipe="delayed").verdict.endswith(
            "delayed scaling begins at scale 1, and how many tensors its first step would lose there is not known."
        )

    def test_delayed_scaling_that_ran_on_from_a_checkpoint(self) -> None:
        """Its first step has a scale: what another format would lose at the start is told, of another margin it is as it ran."""
        run = Made()
        for step in range(2):
            run.tensor(step, "a.grad_output", [1e-5], scale=1e7, format="E5M2")
        assert what_if(run.trace(), format="E4M3").first_step == (0, 1, 1, 1)
        assert what_if(run.trace(), margin=1).first_step is None


class TestPowersOfTwo:
    """Where nobody asks, scales are powers of two as they were in the run."""

    @staticmethod
    def run(power: bool, scaling: str = "current") -> Made:
        """Values of which one quarter is flushed by a scale that is rounded down, and none by one that is not."""
        values = np.tile(np.array([1.0, 1.0, 1.0, 2.0**-18.5], np.float32), (8, 32))
        scale = 256.0 if power else 448.0
        of_blocks = {"scale_min": scale, "scale_max": scale} if scaling == "block" else {}
        return Made().tensor(0, NAME, values, scale=scale, scaling=scaling, layouts=("1x128",), **of_blocks)

    @pytest.mark.parametrize("scaling", ["current", "block"])
    @pytest.mark.parametrize("power", [True, False])
    def test_recorded_scales_tell(self, power: bool, scaling: str) -> None:
        trace = self.run(power, scaling).trace()
        found, same, other = (what_if(trace, recipe=scaling, power_of_two=asked) for asked in (None, power, not power))
        assert ([row.as_ran for row in found.rows], found.rows) == ([True], same.rows)
        assert [row.as_ran for row in other.rows] == [False]
        word = "yes" if power else "no"
        assert found.powers_of_two == (f"power_of_two={word} for {scaling} scaling: as its recorded scales are",)
        assert same.powers_of_two == other.powers_of_two == ()

    @pytest.mark.parametrize("scaling", ["current", "block"])
    @pytest.mark.parametrize("power", [True, False])
    def test_what_quantizers_were_told_comes_first(self, power: bool, scaling: str) -> None:
        run = self.run(not power, scaling).site("quantize", scaling=scaling, force_pow_2_scales=power)
        (words,) = what_if(run.trace(), format="E5M2").powers_of_two
        assert words == f"power_of_two={'yes' if power else 'no'} for {scaling} scaling: as its quantizers were told"

    @pytest.mark.parametrize(("scaling", "word"), [("current", "no"), ("block", "yes")])
    def test_of_what_did_not_run_it_is_the_default(self, scaling: str, word: str) -> None:
        run = Made().tensor(0, NAME, np.ones((8, 128)), scale=256.0, layouts=("1x128",))
        (words,) = what_if(run.trace(), recipe=scaling).powers_of_two
        assert words.startswith(f"power_of_two={word} for {scaling} scaling: Transformer Engine's default")

    def test_gradients_alone(self) -> None:
        """`QParams(power_2_scale=True)` of a recipe is for input, weight or gradient."""
        run = Made().tensor(0, "a.input", [1.0], scale=448.0, scaling="current")
        run.tensor(0, "a.grad_output", [1.0], scale=256.0, scaling="current")
        found = what_if(run.trace(), recipe="current")
        assert found.powers_of_two == (
            "power_of_two=yes for 1 tensor of current scaling, no for others: as their recorded scales are",
        )
        assert [row.as_ran for row in found.rows] == [True, True]


class TestAnswers:
    """What is answered, and what is said to be not recorded."""

    def test_hybrid_is_e5m2_for_gradients_only(self) -> None:
        run = Made()
        for name in ("fc1.input", "fc1.weight", "fc1.grad_output", "attention.do", "mlp.fc2.grad_output"):
            run.tensor(0, name, [1.0], scaling="current")
        found = what_if(run.trace(), format="HYBRID").rows
        assert {row.name: row.format for row in found} == {
            "fc1.input": "E4M3",
            "fc1.weight": "E4M3",
            "fc1.grad_output": "E5M2",
            "attention.do": "E5M2",
            "mlp.fc2.grad_output": "E5M2",
        }

    def test_what_ran_is_beside_it(self) -> None:
        values = drawn("normal")
        (row,) = what_if(used(values, 1e4, "E4M3").trace(), recipe="current").rows
        saturated, flushed, _ = counts(values, 1e4, "E4M3")
        assert (row.ran_recipe, row.ran_format, row.steps, row.worst_step) == ("delayed", "E4M3", 1, 1)
        assert (row.ran_saturated, row.ran_flushed) == (saturated / values.size, flushed / values.size)
        assert row.snr_change_db > 10

    def test_codes_and_recomputed_tensors_are_left_out(self) -> None:
        run = Made().tensor(0, NAME, [1.0, 2.0], scaling="current")
        run.tensor(0, NAME, [1.0, 2.0], scaling="current", phase="recompute")
        run.tensor(0, "norm.input", [1.0], scaling="current", source="quantized").check(0, "norm.output")
        found = what_if(run.trace(), recipe="current")
        assert [(row.name, row.elements) for row in found.rows] == [(NAME, 2)]
        assert found.unanswered == {"seen only as FP8 codes": 1}

    def test_blocks_that_were_not_recorded(self) -> None:
        run = Made().tensor(0, NAME, np.ones((128, 128)), scaling="current", layouts=("1x128",))
        run.tensor(0, "other.input", np.ones((128, 128)), scaling="current")
        found = what_if(run.trace(), recipe="block")
        assert ([row.name for row in found.rows], found.unanswered) == ([NAME], {"amaxes of blocks not recorded": 1})
        with pytest.raises(InputError, match="--fp8-blocks"):
            what_if(Made().tensor(0, NAME, [1.0]).trace(), recipe="block")

    def test_a_tensor_that_is_not_finite_is_left_out(self) -> None:
        found = what_if(Made().tensor(0, NAME, [1.0, np.inf], scaling="current").trace(), recipe="current")
        assert (found.rows, found.unanswered) == ((), {"never finite": 1})

    def test_a_histogram_of_a_sample_stands_for_the_whole(self) -> None:
        run = Made().tensor(0, NAME, [1.0, 1e-9], scaling="current", elements=20)
        found = what_if(run.trace(), recipe="current")
        assert found.sampled
        assert found.rows[0].flushed_lower == found.rows[0].flushed_upper == 0.5

    def test_ranks_and_micro_batches_are_one_row(self) -> None:
        run = Made().tensor(0, NAME, [1.0], scaling="current").tensor(0, NAME, [2.0], scaling="current")
        run.tensor(0, NAME, [4.0], scaling="current", process=1)
        (row,) = what_if(run.trace(), recipe="current").rows
        assert (row.elements, row.steps, row.amax) == (3, 1, 4.0)

    def test_the_table_is_pandas(self) -> None:
        table = what_if(used(drawn("normal"), 3.0, "E4M3").trace(), margin=1).table
        assert list(table["module"] + "." + table["role"]) == [NAME]


class TestAgainstWhatRan:
    """The verdict counts tensors of the table by stated limits, as it ran and as it would."""

    @staticmethod
    def run() -> Made:
        """After a step without a scale: one tensor of which a tenth is clipped, one that fits, one that flushes a tenth."""
        run = Made()
        tensors = {
            "a.input": np.append(np.full(90, 0.5), np.full(10, 1.5)),
            "b.input": np.ones(100),
            "c.input": np.append(np.ones(90), np.full(10, 2.0**-30)),
        }
        for step in range(2):
            for name, values in tensors.items():
                run.tensor(step, name, values if step else np.zeros(4), scale=448.0)
        return run

    def test_counts_follow_from_the_table(self) -> None:
        found = what_if(self.run().trace(), margin=1)
        assert (str(found.clipped), str(found.flushed)) == ("1 → 0", "1 → 1")
        assert found.verdict == (
            "margin=1 against what ran, of 3 tensors, each by its worst step: more than 0.01% clipped in 1 → 0, more than "
            "1% flushed in 1 → 1; SNR better by 1 dB or more in 1, worse in 0."
        )

    @pytest.mark.parametrize("steps", [2, 21, 300])
    def test_a_step_counts_as_much_in_a_long_recording(self, steps: int) -> None:
        """`health` judges each step: one that loses all is not made up for by others."""
        run = Made()
        for step in range(steps):
            run.tensor(step, "a.grad_output", np.full(8, 1e-5), scale=4e7 if step else 1.0)
            run.tensor(step, "b.input", [1.0, 3.0 if step == 1 else 1.0], scale=448.0 if step else 1.0)
        found = what_if(run.trace(), margin=1)
        assert (str(found.flushed), str(found.clipped)) == ("1 → 1", "1 → 1")
        row = next(row for row in found.rows if row.role == "grad_output")
        assert (row.worst_ran_flushed, row.worst_flushed, row.worst_step) == (1.0, (1.0, 1.0), 0)
        assert row.flushed == pytest.approx((1 / steps, 1 / steps))
        clipped = next(row for row in found.rows if row.role == "input")
        assert (clipped.worst_ran_clipped, clipped.worst_clipped, clipped.worst_step) == (0.5, (0.5, 0.5), 1)

    def test_before_the_first_scale_half_counts(self) -> None:
        """As in `health`: weights lose some percent of their smallest values at a scale of 1."""
        for lost, many in ((49, 0), (50, 1)):
            run = Made()
            for step in range(2):
                values = np.append(np.ones(100 - lost), np.full(lost, 2.0 ** (-5 if step else -12)))
                run.tensor(step, "a.weight", values, scale=448.0 if step else 1.0)
            assert str(what_if(run.trace(), margin=1).flushed) == f"{many} → {many}", lost

    def test_a_rank_counts_as_much_among_many(self) -> None:
        run = Made()
        for process in range(200):
            run.tensor(0, NAME, [1.0] if process else [1e-9], scale=2.0, process=process)
        assert str(what_if(run.trace(), margin=1).flushed) == "1 → 1"

    def test_what_was_lost_and_is_lost_still_more_is_counted(self) -> None:
        """The count of tensors alone would hide it."""
        values = np.concatenate([np.ones(80), np.full(10, 2.0**-30), np.full(10, 2.0**-15)])
        run = Made().tensor(0, "a.input", np.zeros(4), scale=448.0).tensor(1, "a.input", values, scale=448.0)
        assert "more than 1% flushed in 1 → 1 (1 of them by 1% more);" in what_if(run.trace(), margin=6).verdict
        assert "more than 1% flushed in 1 → 1;" in what_if(run.trace(), margin=1).verdict

    def test_what_ran_is_said_to_be_it(self) -> None:
        for asked in ({"format": "E4M3"}, {"margin": 0}, {"recipe": "delayed"}):
            found = what_if(self.run().trace(), **asked)
            assert found.verdict == (
                f"{found.settings} is what ran, so nothing changes: of 3 tensors, each by its worst step, more than "
                "0.01% clipped in 1, more than 1% flushed in 1."
            )

    def test_what_loses_the_same_with_another_scale_is_not_what_ran(self) -> None:
        run = Made().tensor(0, NAME, np.ones(4), scale=448.0, scaling="current")
        assert "is what ran" in what_if(run.trace(), recipe="current").verdict
        assert "against what ran" in what_if(run.trace(), format="E5M2").verdict
        assert "against what ran" in what_if(run.trace(), power_of_two=True).verdict
        assert "against what ran" in what_if(used(np.ones(4, np.float32), 64.0, "E4M3").trace(), margin=1).verdict

    def test_where_only_bounds_are_known(self) -> None:
        """A threshold that falls into the bin that a tenth of the values are in."""
        values = np.concatenate([np.full(90, 0.5), np.linspace(1.26, 1.49, 9), [100.0]])
        run = Made().tensor(0, "a.input", values, scale=2.0).tensor(1, "a.input", values, scale=1.0)
        row, *_ = what_if(run.trace(), recipe="delayed", format="E4M3", margin=0).rows
        change = WhatIf(
            parse(["margin=1"]),
            (dataclasses.replace(row, worst_saturated_lower=0.0, worst_saturated_upper=0.1),),
            {},
            0,
            False,
        )
        assert str(change.clipped).endswith("0 to 1")
        unknown = dataclasses.replace(row, worst_ran_saturated=float("nan"))
        assert str(WhatIf(parse(["margin=1"]), (unknown,), {}, 0, False).clipped).startswith("0 to 1 → ")

    def test_an_amax_that_a_rounding_puts_beyond_is_not_clipped(self) -> None:
        value = next(x for x in np.linspace(1, 2, 999, dtype=np.float32) if x * (np.float32(448) / x) > 448)
        found = what_if(Made().tensor(0, NAME, [value, 0.5], scale=500.0).trace(), recipe="current")
        (row,) = found.rows
        assert (row.saturated_lower, row.clipped, str(found.clipped)) == (0.5, (0.0, 0.0), "1 → 0")

    def test_steps_before_the_first_scale(self) -> None:
        """No margin and no format helps there."""
        run = (
            Made().tensor(0, "a.grad_output", np.full(8, 1e-5)).tensor(1, "a.grad_output", np.full(8, 1e-5), scale=4e7)
        )
        assert [row.unset_steps for row in what_if(run.trace(), margin=1).rows] == [1]
        assert [row.unset_steps for row in what_if(run.trace(), recipe="current").rows] == [0]
        zeros = Made().tensor(0, "a.grad_output", np.zeros(8)).tensor(1, "a.grad_output", np.full(8, 1.0), scale=448.0)
        assert [row.unset_steps for row in what_if(zeros.trace(), margin=1).rows] == [0], "nothing becomes zero there"

    def test_steps_whose_scale_is_not_known_are_told(self) -> None:
        """They are left out of what ran as well, so that the same tensor loses less there than with another question."""
        run = Made()
        for step in range(1, 5):
            run.tensor(step, NAME, [1.0, 1e-9 if step == 1 else 1.0], scale=448.0, scaling="current")
        found, whole = what_if(run.trace(), recipe="delayed", history=1), what_if(run.trace(), format="E5M2")
        assert (found.steps_left_out, found.tensors_left_out) == ((1,), 1)
        assert (whole.steps_left_out, whole.tensors_left_out) == ((), 0)
        assert (found.flushed.ran, whole.flushed.ran) == (0, 1)

    def test_steps_before_the_first_scale_have_one_of_1_with_any_history(self) -> None:
        """Of a recording that begins with the run: what was lost there is lost still."""
        trace = tetrace.load(DATA / "stability-e4m3.tetrace")
        by_history, by_margin = what_if(trace, history=1), what_if(trace, margin=1)
        assert (by_history.steps_left_out, by_history.flushed.ran) == ((), by_margin.flushed.ran)
        assert sum(row.unset_steps for row in by_history.rows) == sum(row.unset_steps for row in by_margin.rows) > 0

    def test_steps_that_are_not_finite_are_told(self) -> None:
        run = Made()
        for step in range(5):
            run.tensor(step, NAME, [1.0, np.nan if step > 2 else 1.0], scaling="current")
        run.tensor(4, "other.input", [1.0], scaling="current")
        found = what_if(run.trace(), recipe="current")
        assert (found.steps_left_out, found.steps_not_finite) == ((), (3, 4))

    def test_a_run_that_quantized_nothing(self) -> None:
        with pytest.raises(
            InputError, match="nothing that was looked at was quantized to FP8, so there is no scale to change"
        ):
            what_if(Made().check(0, "a.output").trace(), margin=1)


class TestSettings:
    """What is asked for in words."""

    def test_joined_and_apart(self) -> None:
        assert parse(["recipe=delayed,format=e4m3", "margin=1"]) == parse(["recipe=delayed", "format=E4M3,margin=1"])
        assert str(parse(["history=16,recipe=delayed"])) == "recipe=delayed,history=16"

    def test_nothing_that_is_asked(self) -> None:
        with pytest.raises(UsageError, match="nothing is asked for: give NAME=VALUE"):
            parse(["", " , "])

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["recipe=best"], "recipe=best: give one of current, delayed, block, mxfp8"),
            (["format=FP4"], "give one of E4M3, E5M2, HYBRID"),
            (["margin=-1"], "margin=-1: give a whole number from 0 to 16"),
            (["margin=1.5"], "margin=1.5: give a whole number$"),
            (["margin=99"], "from 0 to 16"),
            (["history=0"], "from 1 to 1024"),
            (["history=1025"], "from 1 to 1024"),
            (["recipe=current,margin=1"], "margin belongs to delayed scaling, not to recipe=current"),
            (["recipe=delayed,power_of_two=yes"], "power_of_two belongs to current and block"),
            (["recipe=mxfp8,power_of_two=no"], "not to recipe=mxfp8"),
            (["power_of_two=perhaps"], "give yes or no"),
            (["margin"], "margin: give NAME=VALUE"),
            (["speed=1"], "speed=1: give NAME=VALUE with one of recipe"),
            (["margin=1,margin=2"], "margin is given twice"),
        ],
    )
    def test_what_makes_no_sense(self, words: list[str], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            parse(words)

    @pytest.mark.parametrize("given", [{"margin": 1.5}, {"margin": "1"}, {"history": "4"}, {"history": 2.0}])
    def test_what_is_no_whole_number(self, given: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="give a whole number from"):
            what_if(Made().tensor(0, NAME, [1.0]).trace(), **given)

    @pytest.mark.parametrize("flag", [True, False])
    def test_a_power_of_two_where_all_is_delayed(self, flag: bool) -> None:
        with pytest.raises(UsageError, match="delayed scaling ran; give recipe=current with it"):
            what_if(Made().tensor(0, NAME, [1.0], scaling="delayed").trace(), power_of_two=flag)

    def test_a_margin_where_nothing_is_delayed(self) -> None:
        with pytest.raises(UsageError, match="add recipe=delayed"):
            what_if(Made().tensor(0, NAME, [1.0], scaling="current").trace(), margin=1)
