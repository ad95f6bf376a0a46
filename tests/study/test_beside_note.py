"""Ratios of a note beside those here: judged as claims are."""

from __future__ import annotations

import pytest

from tests.study.made import Made, study
from tests.study.stack import rounds, table
from tetrace.study.material import Material
from tetrace.study.report import Report, write

TOML = """
title = "t"
[[matrix]]
name = "main"
axes.kind = ["slow", "fast"]
baseline = "slow"
[[note]]
title = "A note"
[[note.row]]
label = "Slow"
configuration = "slow"
total_ms = 20.0
[[note.row]]
label = "Fast"
configuration = "fast"
total_ms = 10.0
[[claim]]
says = "Twice as fast, within 10%"
figure = "speedup"
of = "fast"
against = "slow"
between = [1.8, 2.2]
"""


@pytest.mark.parametrize(
    ("fast", "within", "agreement", "verdict"),
    [
        ([1.0] * 7, "yes", "1 is within 10% of the note's", "holds"),
        ([0.8] * 7, "no", "0 are within 10% of the note's, 1 is not", "does not hold here"),
        # The median is within 10%, its interval is not.
        ([1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.1], "cannot be told", "0 are within 10% of the note's, 1 cannot be told",
         "cannot be told"),
    ],
)  # fmt: skip
def test_a_ratio_and_a_claim_on_it_are_judged_alike(tmp_path, fast, within, agreement, verdict):
    of = study(tmp_path / "study", TOML)
    made = Made(of).measured("slow", total=rounds(2.0))
    made.measured("fast", total=[ms * factor for ms, factor in zip(rounds(1.0), fast, strict=True)])
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert table(text, "A note: times faster than Slow, noted and here")[1][5] == within
    assert f"A note: of 1 ratio (all pairs of rows) {agreement}." in text
    assert [one.verdict for one in Report(Material(folder, of)).judged] == [verdict]
