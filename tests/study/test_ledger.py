"""Results of a study while they grow over several starts."""

from __future__ import annotations

from pathlib import Path

from tests.study import made
from tetrace.study.context import context_of
from tetrace.study.ledger import Ledger
from tetrace.study.results import Results


def test_peaks_stay_those_of_what_was_timed(tmp_path: Path) -> None:
    """Another start's GPU reaches others: a run that only adds recordings must not change every share of a peak."""
    study = made.study(tmp_path / "study", "[[matrix]]\nname = 'main'\naxes.margin = [0, 1]\n")
    folder, context = tmp_path / "results", context_of({}, {}, study.measure, "cuda", {})
    of = made.Made(study, peaks={"bf16_flops": 700.0}).measured("0", total=[1.0], fields={"key": "a key"})
    of.write(folder)
    for afresh, peaks in ((False, 700.0), (True, 600.0)):
        ledger = Ledger(study, folder, Results(study.name, "", made.STARTED))
        if afresh:
            ledger.start_over(study.configurations[0], "another key", context.digest)
        ledger.begin(Results(study.name, "", made.STARTED, peaks={"bf16_flops": 600.0}), context)
        assert ledger.results.peaks == {"bf16_flops": peaks}


def test_the_machine_stays_that_of_what_was_timed(tmp_path: Path) -> None:
    """A run that only adds recordings may have more GPUs beside the one in use; another GPU is another machine."""
    study = made.study(tmp_path / "study", "[[matrix]]\nname = 'main'\naxes.margin = [0, 1]\n")
    folder, context = tmp_path / "results", context_of({}, {}, study.measure, "cuda", {})
    timed = {"gpu": "NVIDIA H200", "gpus": 1, "driver": "580", "cpu": "Xeon", "cores": 16}
    made.Made(study, machine=timed).measured("0", total=[1.0], fields={"key": "a key"}).write(folder)
    for later, kept in ((timed | {"gpus": 2}, True), (timed | {"gpu": "NVIDIA H100"}, False)):
        ledger = Ledger(study, folder, Results(study.name, "", made.STARTED))
        ledger.begin(Results(study.name, "", made.STARTED, machine=later), context)
        assert ledger.results.machine == (timed if kept else later)
