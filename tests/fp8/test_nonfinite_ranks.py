"""The first of several ranks, and of the stages of a pipeline, that is not finite."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.fp8.made import Made
from tests.fp8.two_linears import origin, step
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.nonfinite_advice import advice
from tetrace.fp8.origins import Origin


def test_the_first_of_several_ranks_by_its_place_in_the_step() -> None:
    """Orders of ranks cannot be compared: one has counted far more observations."""
    run = Made()
    for _ in range(3):
        step(run, 0, process=0)
    step(run, 0, process=1)
    step(run, 1, "b.output", process=0)
    step(run, 1, "a.output", process=1)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, found.rank, found.tensors) == ("a.output", "rank 1", 11)


class TestStagesOfAPipeline:
    """Ranks that hold different modules: the place in a step of one says nothing of another's."""

    @staticmethod
    def stage(run: Made, step: int, process: int, layers: str, bad: str = "", phase: str = "forward") -> None:
        """What a rank reads of one micro-batch; all is NaN from layer `bad` on."""
        role = "input" if phase == "forward" else "grad_output"
        begun = False
        for layer in layers:
            begun |= layer == bad
            run.tensor(step, f"{layer}.{role}", [1.0, np.nan if begun else 2.0], process=process, phase=phase)

    @staticmethod
    def found(run: Made) -> Origin:
        (origin,) = find_nonfinite(run.trace()).origins
        return origin

    def test_the_one_that_had_something_finite_before(self) -> None:
        run = Made()
        self.stage(run, 7, 0, "abcdefghij", bad="i")
        self.stage(run, 7, 1, "klmn", bad="k")
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.received_from, found.tensors) == ("i.input", "rank 0", (), 6)
        assert found.before is not None
        assert found.before.name == "h.input"

    def test_a_later_micro_batch(self) -> None:
        """The second stage has read a finite one before, and fewer tensors."""
        run = Made()
        for bad_here, bad_there in (("", ""), ("i", "k")):
            self.stage(run, 7, 0, "abcdefghij", bad_here)
            self.stage(run, 7, 1, "klmn", bad_there)
        assert self.found(run).tensor.name == "i.input"

    def test_what_was_made_on_the_second_stage(self) -> None:
        run = Made()
        self.stage(run, 7, 0, "ab")
        self.stage(run, 7, 1, "klmn", bad="n")
        run.check(7, "(loss).loss", nans=1, process=1)
        self.stage(run, 7, 1, "nmlk", bad="n", phase="backward")
        self.stage(run, 7, 0, "ba", bad="b", phase="backward")
        assert (self.found(run).tensor.name, self.found(run).received_from) == ("n.input", ())

    def test_what_was_made_in_backward_of_the_last_stage(self) -> None:
        """Its backward begins with the loss, the other's with what it is sent."""
        run = Made()
        self.stage(run, 7, 0, "a")
        self.stage(run, 7, 1, "klmn")
        run.check(7, "(loss).loss", process=1)
        self.stage(run, 7, 1, "nmlk", bad="n", phase="backward")
        self.stage(run, 7, 0, "a", bad="a", phase="backward")
        assert (self.found(run).tensor.name, self.found(run).received_from) == ("n.grad_output", ())

    def test_a_batch_of_data_that_one_replica_read(self) -> None:
        """The other one has it from the gradients, which are reduced: it had far more that was finite."""
        run = Made()
        step(run, 7, bad="a.input", process=1)
        step(run, 7, bad="a.weight.gradient", process=0)
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.received_from) == ("a.input", "rank 1", ())

    @pytest.mark.parametrize(("first", "stages", "says"), [(6, 2, "rank 0"), (7, 3, "rank 0 or rank 2")])
    def test_it_may_have_been_received_where_the_others_are_finite(self, first: int, stages: int, says: str) -> None:
        run = Made()
        for number in range(first, 8):
            for process, layers in enumerate(("ab", "kl", "xy")[:stages]):
                self.stage(run, number, process, layers, bad="k" if number == 7 else "")
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.senders) == ("k.input", "rank 1", says)
        assert advice(found) == f"look at what {says} computes last, and what is sent from there"
        assert find_nonfinite(run.trace()).table["received_from"].tolist() == [says.replace(" or ", "; ")]

    def test_an_output_may_be_a_modules_own_doing(self) -> None:
        run = Made()
        for process, module in enumerate("ak"):
            run.check(7, f"{module}.output", nans=process, operation="Softmax", process=process)
        assert advice(self.found(run)).endswith(
            "in the steps before; or look at what rank 0 computes last, and what is sent from there"
        )

    def test_a_weight_is_received_from_nobody(self) -> None:
        run = Made().tensor(7, "a.weight", [1.0]).tensor(7, "k.weight", [np.nan], process=1)
        assert self.found(run).received_from == ()

    @pytest.mark.parametrize(
        ("ranks", "says"),
        [(0, ""), (1, "0"), (2, "0 or 1"), (3, "0, 1 or 2"), (4, "0, 1, 2 or 3"), (6, "0, 1, 2, 3 or 2 more")],
    )
    def test_many_ranks_in_words(self, ranks: int, says: str) -> None:
        changed = dataclasses.replace(origin("a.input"), received_from=tuple(map(str, range(ranks))))
        assert changed.senders == says
