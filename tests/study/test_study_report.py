"""REPORT.md, the page's data, the tables and the first screen: whole tables of made results with real recordings."""

from __future__ import annotations

import csv
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.breakdown.scaled import repeated
from tests.study.made import Made, study
from tests.study.stack import CLOCKS, FIELDS, TOML, rounds, stack, table
from tetrace.report.terminal import cut_end
from tetrace.study import results, spec
from tetrace.study.csv_tables import csv_text
from tetrace.study.material import Material
from tetrace.study.page import document
from tetrace.study.report import Report, first_screen, write
from tetrace.study.speedups import pairs
from tetrace.study.surroundings import MEANINGS
from tetrace.trace import store


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder, of = stack(tmp_path_factory.mktemp("report") / "stack")
    write(folder, of)
    return folder, of


def test_a_first_step_beside_others_says_so(written, tmp_path):
    alone = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    assert "beside others" not in "".join(table(alone, "Start of each configuration")[0])
    assert "A first step beside others" not in alone
    of = study(tmp_path / "stack", TOML)
    made = Made(of)
    for name, beside in (("none", 0), ("delayed", 7)):
        made.measured(name, total=rounds(1.0), fields={**FIELDS, "first_step_beside": beside})
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    found = [row[:3] for row in table(text, "Start of each configuration")]
    assert found == [["configuration", "first step s", "beside others"], ["none", "2.00", ""], ["delayed", "2.00", "7"]]
    assert "A first step beside others ran while so many others had theirs" in text
    rows = list(csv.DictReader((folder / "configurations.csv").open(encoding="utf-8")))
    assert [(row["first_step_ns"], row["first_step_beside"]) for row in rows[:2]] == [
        ("2000000000", "0"),
        ("2000000000", "7"),
    ]


def test_the_table_of_configurations(written):
    text = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Layer stack · NVIDIA H200 · 2026-11-21\n\nWhat does FP8 gain?\n\n"
        "**Fastest: graphs, 3.000 ms a step, 3.333× (3.333 to 3.333) as fast as none.**\n\n"
        "- In 2 of 3 configurations the GPU idles more than half of a step (65% to 81%), so there the host decides.\n"
        "- 2 claims hold, 2 do not hold here, 1 cannot be told; 1 of 4 configurations failed.\n"
    )
    assert table(text, "Configurations: ms a step, speed-up over none") == [
        ["configuration", "total ms", "95%", "speed-up", "95%", "forward ms", "95%", "backward ms", "95%", "tokens/s",
         "TFLOP/s", "of peak", "peak GiB", ""],
        ["none", "10.000", "9.800–10.300", "1", "", "4.000", "3.920–4.120", "6.000", "5.880–6.180", "409,600", "300.0",
         "37.5% of BF16", "2.79", ""],
        ["delayed", "17.000", "16.660–17.510", "0.588", "0.588–0.588", "8.000", "7.840–8.240", "9.000", "8.820–9.270",
         "240,941", "176.5", "12.6% of FP8", "2.79", ""],
        ["graphs", "3.000", "2.940–3.090", "3.333", "3.333–3.333", "1.000", "0.980–1.030", "2.000", "1.960–2.060",
         "1,365,333", "1,000.0", "71.4% of FP8", "2.79", ""],
        ["block", "–", "", "–", "", "–", "", "–", "", "–", "–", "–", "–", "failed (first step): ValueError"],
    ]  # fmt: skip


def test_the_table_of_the_note(written):
    text = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    assert table(text, "A note, on H100, beside NVIDIA H200") == [
        ["row", "configuration", "forward ms, noted", "here", "95%", "total ms, noted", "here", "95%", "peak GB, noted", "here",
         "speedup, noted", "here", "95%", "state, noted", "here"],
        ["BF16", "none", "4.40", "4.000", "3.920–4.120", "10", "10.000", "9.800–10.300", "3", "3.000", "", "", "", "", ""],
        ["FP8", "delayed", "8", "8.000", "7.840–8.240", "17.50", "17.000", "16.660–17.510", "3.50", "3.000", "0.57", "0.588",
         "0.588–0.588", "", ""],
        ["FP8 in graphs", "graphs", "", "", "", "5", "3.000", "2.940–3.090", "", "", "", "", "", "", ""],
        ["FP8 by blocks", "block", "", "", "", "12", "failed", "", "", "", "", "", "", "measured", "failed"],
    ]  # fmt: skip
    ratios = table(text, "A note: how many times faster, noted and here")
    assert [row[:7] for row in ratios[1:]] == [
        ["FP8", "BF16", "0.571", "0.588", "0.588–0.588", "+2.9%", "yes"],
        ["FP8 in graphs", "BF16", "2.000", "3.333", "3.333–3.333", "+66.7%", "no"],
        ["FP8 by blocks", "BF16", "0.833", "–", "", "–", "cannot be told"],
        ["FP8 in graphs", "FP8", "3.500", "5.667", "5.667–5.667", "+61.9%", "no"],
        ["FP8 by blocks", "FP8", "1.458", "–", "", "–", "cannot be told"],
        ["FP8 by blocks", "FP8 in graphs", "0.417", "–", "", "–", "cannot be told"],
    ]
    # Not within 10%: what makes the difference, which few recorded steps do not tell.
    assert [row[7] for row in ratios[1:3]] == ["", "not told, too few steps were recorded"]
    assert "A note: of 3 ratios (all pairs of rows) 1 is within 10% of the note's, 2 are not." in text


def test_the_table_of_claims(written):
    text = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    rows = [[*row[:5], row[5].partition(";")[0]] for row in table(text, "Claims")]
    assert rows == [
        ["claim", "verdict", "noted", "here", "holds if", "why"],
        ["FP8 is faster", "does not hold here", "1.200×", "0.588×", "at least 1.100×", "the step waits for the host"],
        ["FP8's forward is faster", "does not hold here", "", "0.500×", "at least 1.100×",
         "what differs: not told, too few steps were recorded"],
        ["Graphs pay", "holds", "", "3.333×", "at least 2.000×", ""],
        ["Every GEMM is in FP8", "holds", "", "100%", "at least 95%", ""],
        ["It is stable", "cannot be told", "", "", "", "it is about nothing that a run measures"],
    ]  # fmt: skip


def test_what_ran(written):
    text = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    assert table(text, "Recordings: an average steady step") == [
        ["configuration", "recorded ms", "timed alone ms", "GPU works ms", "FP8 coverage", "quantization", "launches", "idle",
         "attention", "note"],
        ["none", "13.130", "10.000", "3.468", "0%", "0%", "211", "65.3%",
         "FusedAttention F16\\_arbitrary\\_seqlen", "slowed 1.31×"],
        ["delayed", "22.320", "17.000", "3.174", "100%", "9.99%", "255", "81.3%",
         "FusedAttention F16\\_arbitrary\\_seqlen", "slowed 1.31×"],
        ["graphs", "4.332", "3.000", "3.322", "100%", "9.69%", "107", "0%",
         "FusedAttention F16\\_arbitrary\\_seqlen", "slowed 1.44×"],
    ]  # fmt: skip
    assert "slowed: the recorded step takes more than 1.3 times the timed one, since the recorder" in text


def test_every_speedup_is_explained_to_its_end(written):
    text = (written[0] / "REPORT.md").read_text(encoding="utf-8")
    for title in (
        "delayed against none: 0.588× (0.588 to 0.588); does not explain the timed difference: too few steps were recorded",
        "graphs against none: 3.333× (3.333 to 3.333); does not explain the timed difference: too few steps were recorded",
    ):
        head, *rows, total = table(text, title)
        assert head[:5] == ["before ms", "after ms", "difference", "of it", "what"]
        assert (total[3], total[4]) == ("100.0%", "timed step")
        numbers = [
            [float(cell.rstrip("%").replace(",", "").replace("−", "-")) for cell in row[:4]] for row in [*rows, total]
        ]
        for column in range(4):
            # Rounded to a millisecond's thousandth, or to a tenth of a percent.
            wanted = pytest.approx(numbers[-1][column], abs=0.0006 * len(rows) if column < 3 else 0.06 * len(rows))
            assert sum(row[column] for row in numbers[:-1]) == wanted
        for row in rows:
            assert row[4] not in ("idle", "other", "all else")
            if "smaller" in row[4]:
                assert abs(float(row[3].rstrip("%").replace("−", "-"))) <= 5
        before, after = {"delayed": ("10.000", "17.000"), "graphs": ("10.000", "3.000")}[title.partition(" ")[0]]
        assert total[:2] == [before, after]
    # What of it is work and what waiting, and how that is split.
    flat = text.replace("\\", "")
    assert (
        "A step takes 10.0 and 17.0 ms, +7.00 ms: −0.29 is work of the GPU, +7.29 waiting. Too few steps were recorded to tell "
        "it from noise. Waiting is that of the recordings times 0.68 and 0.72. The recorded steps take 13.1 and 22.3 ms."
    ) in flat
    # The graphs' timed step is shorter than what their recording works.
    assert table(text, title)[7][:5] == ["0.000", "−0.322", "−0.322", "+4.6%", "kernels at another speed than recorded"]
    assert (
        "−0.15 is work of the GPU, −6.53 waiting, −0.32 what the recordings do not have. Too few steps were recorded to tell it "
        "from noise. Waiting is that of the recordings times 0.68 and 0. graphs takes 0.32 ms less than its recording works: "
        "kernels were faster (clocks)."
    ) in flat


def test_the_table_of_causes_adds_up_exactly(written):
    folder, of = written
    rows = list(csv.DictReader((folder / "explanations.csv").open(encoding="utf-8")))
    report = Material(folder, of)
    for name in ("delayed", "graphs"):
        own = [row for row in rows if row["configuration"] == name]
        exact = sum(Fraction(row["difference_ns_exact"]) for row in own)
        runs = [report.breakdown(one).totals for one in (name, "none")]
        assert exact == Fraction(runs[0].wall_ns, runs[0].steps) - Fraction(runs[1].wall_ns, runs[1].steps)
        timed = [sum(float(row[f"timed_{end}_ms"]) for row in own) for end in ("before", "after")]
        assert timed == pytest.approx([10, {"delayed": 17, "graphs": 3}[name]], abs=1e-9)


def test_tables_for_programs(written):
    folder, _ = written
    rows = list(csv.DictReader((folder / "configurations.csv").open(encoding="utf-8")))
    assert [(row["configuration"], row["state"], row["total_ns"], row["speedup"]) for row in rows] == [
        ("none", "measured", "10000000.0", ""),
        ("delayed", "measured", "17000000.0", rows[1]["speedup"]),
        ("graphs", "measured", "3000000.0", rows[2]["speedup"]),
        ("block", "failed", "", ""),
    ]
    assert float(rows[2]["speedup"]) == pytest.approx(10 / 3, rel=1e-6)
    claims = list(csv.DictReader((folder / "claims.csv").open(encoding="utf-8")))
    assert [row["verdict"] for row in claims] == ["does not hold here"] * 2 + ["holds", "holds", "cannot be told"]


def test_the_first_screen(written):
    folder, of = written
    screen = first_screen(folder, of, 100)
    lines = screen.splitlines()
    assert len(lines) <= 45
    assert all(len(line) <= 100 for line in lines)
    shown = screen[screen.index("Configurations") : screen.index("All of it")]
    assert shown == (
        "Configurations: ms a step, speed-up over none\n"
        "configuration  total ms            95%  speed-up          95%  peak GiB\n"
        "none             10.000   9.800–10.300         1                   2.79\n"
        "delayed          17.000  16.660–17.510     0.588  0.588–0.588      2.79\n"
        "graphs            3.000    2.940–3.090     3.333  3.333–3.333      2.79\n"
        "block                 –                        –                      –  failed: ValueError\n"
        "7 columns left out: --wide shows all\n"
        "\n"
        "Claims of the note\n"
        "claim                    verdict             here\n"
        "FP8 is faster            does not hold here  0.588×\n"
        "FP8's forward is faster  does not hold here  0.500×\n"
        "Graphs pay               holds               3.333×\n"
        "Every GEMM is in FP8     holds               100%\n"
        "It is stable             cannot be told      it is about nothing that a run measures\n"
        "\n"
    )
    assert lines[-1] == cut_end(f"All of it, with every speed-up explained: REPORT.md in {folder}.", 100) or str(
        folder
    ) in screen.replace("\n  ", "")


def test_the_first_screen_needs_neither_steps_nor_recordings(written, tmp_path):
    folder, of = written
    for name in ("study.json", "report.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    screen = first_screen(tmp_path, of, 100)
    assert "3.333–3.333" in screen
    assert re.search("Every GEMM is in FP8 +holds +100%", screen)


def test_a_screen_of_other_results_is_not_shown(written, tmp_path):
    """Without a report of these results: what was timed, and of recordings nothing."""
    folder, of = written
    for name in ("study.json", "steps.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    old = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (tmp_path / "report.json").write_text(json.dumps({**old, "of": "another", "verdict": "STALE"}), encoding="utf-8")
    for _ in range(2):
        screen = first_screen(tmp_path, of, 100)
        assert "STALE" not in screen
        assert re.search(r"Every GEMM is in FP8 +cannot be told +delayed: not recorded", screen)
        (tmp_path / "report.json").write_text("{", encoding="utf-8")


HOSTILE = "<script>alert(1)</script> | \"q' \x1b[31mred \u202egnirts `a` ```` *b* [c](d) &lt;"


def hostile(folder: Path) -> tuple[Path, Any]:
    """Results in which every text that can come from outside is hostile."""
    toml = TOML.replace('"Layer stack"', json.dumps(HOSTILE)).replace('"What does FP8 gain?"', json.dumps(HOSTILE))
    for text in ('"A note"', '"H100"', '"BF16"', '"FP8 is faster"', '"the step waits for the host"'):
        toml = toml.replace(text, json.dumps(HOSTILE))
    of = study(folder, toml)
    made = Made(
        of, machine={"gpu": HOSTILE, "gpus": 2, "cpu": HOSTILE}, versions={"torch": HOSTILE, HOSTILE: "1"}, command=HOSTILE,
        options_changed={HOSTILE: HOSTILE}, measure={HOSTILE: HOSTILE},
    )  # fmt: skip
    odd = {"facts": {HOSTILE: HOSTILE}, "recording_error": HOSTILE, "environment": {"A": HOSTILE}, "first_step_ns": 5}
    phases = {HOSTILE.replace(",", ""): [1.0] * 7, "forward": [1.0] * 7}
    made.measured("none", fields=odd, rounds={**CLOCKS, "throttled": (HOSTILE,)}, **phases)
    made.measured("delayed", recording="fp8-delayed", **phases)
    made.failed("block", HOSTILE, HOSTILE, f"{HOSTILE}\n````\n{HOSTILE}", stage=HOSTILE)
    made.failed(HOSTILE, "E", "m", matrix=HOSTILE)
    return made.write(folder / "results"), of


def test_hostile_texts_are_harmless_everywhere(tmp_path):
    folder, of = hostile(tmp_path)
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?\n\1$", "", text)
    assert outside != text
    # Markup in names is escaped, or inside of code.
    assert not re.search(r"(?<!\\)<script", re.sub(r"(?<!\\)(`+) ?.*?\1", "", outside))
    # Every row of a table has as many cells as its head.
    for block in re.findall(r"(?m)(?:^\|.*\n)+", outside):
        counts = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block
    # Quoted output stays inside its fence, and has no control character either.
    assert "\x1b" not in text
    assert "\u202e" not in text
    screen = first_screen(folder, of, 100)
    assert not set("\x1b\u202e") & set(screen)
    data = json.dumps(document(Report(Material(folder, of)), "v"))
    assert "\\u001b" not in data
    assert "\\u202e" not in data
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    for name in ("configurations.csv", "effects.csv", "claims.csv", "explanations.csv", "report.json"):
        content = (folder / name).read_text(encoding="utf-8")
        assert not set("\x1b\u202e") & set(content), name


def test_no_text_is_a_formula_to_a_spreadsheet():
    rows = [{"a": "=cmd|' /C calc'!A0", "b": -1.5, "c": None}, {"a": "-7/3", "b": True, "c": "x\n=1"}]
    assert csv_text(("a", "b", "c"), rows) == "a,b,c\n'=cmd|' /C calc'!A0,-1.5,\n-7/3,True,x =1\n"


def test_losses_that_are_not_finite_are_words_on_the_page(tmp_path):
    of = study(tmp_path, TOML)
    losses = results.Losses.of([1.0, float("nan"), float("-inf")])
    folder = Made(of).measured("none", total=[1.0] * 7, fields={"losses": losses}).write(tmp_path / "results")
    write(folder, of)
    assert table((folder / "REPORT.md").read_text(encoding="utf-8"), "Losses by step")[1] == [
        "none", "1.0000", "NaN", "−Inf", "3", "step 1",
    ]  # fmt: skip


def test_words_mean_what_the_documentation_says():
    text = (Path(__file__).parent.parent.parent / "docs/study.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    for word, meaning in MEANINGS.items():
        assert f"**{word}**" in flat, word
        assert " ".join(meaning.split()) in flat, word


def test_pairs_that_claims_and_notes_compare_are_explained_once(tmp_path):
    """Each against its baseline, then what a claim and a note compare; not the other way round again."""
    toml = (
        TOML
        + """
[[claim]]
says = "Graphs over eager FP8"
figure = "speedup"
of = "graphs"
against = "delayed"
at_least = 9.0
[[claim]]
says = "The other way round"
figure = "backward_speedup"
of = "none"
against = "delayed"
at_least = 1.0
[[claim]]
says = "Against one that failed"
figure = "speedup"
of = "block"
against = "none"
at_least = 1.0
"""
    )
    folder, _ = stack(tmp_path)
    (tmp_path / "study.toml").write_text(toml, encoding="utf-8")
    assert pairs(Material(folder, spec.read(tmp_path))) == [
        ("delayed", "none"),
        ("graphs", "none"),
        ("graphs", "delayed"),
    ]


def test_only_explained_speedups_are_called_so(tmp_path):
    """One is recorded, one is of the same options as it, one is timed only; kernels at another speed than recorded explain
    neither of the first two."""
    toml = """
    title = "t"
    [options]
    ways = "x"
    [[matrix]]
    name = "main"
    axes.recipe.none = {}
    axes.recipe.delayed = {ways = "y"}
    baseline = "none"
    [[matrix]]
    name = "more"
    recording = false
    axes.recipe.none = {}
    axes.recipe.delayed = {ways = "y"}
    axes.recipe.other = {ways = "z"}
    baseline = "none"
    [[claim]]
    says = "Far faster"
    figure = "speedup"
    of = "delayed"
    at_least = 20.0
    """
    of = study(tmp_path, toml)
    for name, file in (("none", "te4-bf16.sqlite"), ("delayed", "te4-fp8.sqlite")):
        store.write(repeated([1.0] * 9, name=file), tmp_path / f"{name}.tetrace")

    def made(delayed: list[float], folder: str, another: list[float], none: float = 12.0) -> Path:
        made = Made(of)
        for name, each in (("none", rounds(none)), ("delayed", delayed)):
            made.measured(name, total=each, recording=tmp_path / f"{name}.tetrace")
            made.measured(f"more:{name}", total=each)
        return made.measured("more:other", total=another).write(tmp_path / folder)

    other = made(rounds(1.0), "other", rounds(13.0))
    write(other, of)
    assert "All of it, with 0 of 3 speed-ups explained:" in first_screen(other, of, 300)
    text = (other / "REPORT.md").read_text(encoding="utf-8")
    assert "1 of 1 tables does not explain the timed difference" in text
    assert "work of the GPU may be off by 2.14 of 11.8 ms that changed" in text
    gemms = "GEMMs −0.692 ms (nvjet bf16 → nvjet fp8, backward)"
    assert table(text, "Claims")[1][-1] == f"what differs: waiting −8.560 ms; {gemms}"
    folder = made(rounds(15.0), "results", rounds(13.0))
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert "more:delayed against more:none runs the same as delayed against none: see there." in text
    assert "Not explained: more:other against more:none: timed only, as the study says." in text
    waits = "waiting +3.304 ms (GPU waits for the host: calls that quantize +0.645 ms)"
    assert table(text, "Claims")[1][-1] == f"what differs: {waits}; {gemms}"
    assert "All of it, with 2 of 3 speed-ups explained:" in first_screen(folder, of, 300)
    alike = [ms * factor for ms, factor in zip(rounds(12.0), itertools.cycle((0.98, 1.02)), strict=False)]
    same = made(rounds(15.0), "alike", alike)
    write(same, of)
    assert "All of it, with every speed-up explained (1 ratio is not told from 1):" in first_screen(same, of, 300)
    # Whether the recordings would explain it or not.
    for each, none in ((alike, 12.0), ([ms / 12.0 for ms in alike], 1.0)):
        same = made(each, f"none-{none}", each, none=none)
        write(same, of)
        text = (same / "REPORT.md").read_text(encoding="utf-8")
        assert "1 of 1 tables is of steps that timing does not tell apart: there is no speed-up to explain" in text
        assert re.search(r"## delayed against none: [^\n;]*; not told apart\n", text)
        assert "Not told apart, and so not asked for: more:other against more:none." in text
        assert "All of it, with no ratio told from 1:" in first_screen(same, of, 300)
    (folder / "report.json").unlink()
    # Without the recordings nobody knows.
    assert "All of it: REPORT.md" in first_screen(folder, of, 300)


def test_a_phase_that_was_not_timed_is_not_drawn_as_nothing(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of).measured("none", forward=[1.0] * 7, backward=[2.0] * 7).measured("delayed", forward=[3.0] * 7)
    data = document(Report(Material(made.write(tmp_path / "results"), of)), "v")
    (chart,) = [block for section in data["sections"] for block in section["blocks"] if block["type"] == "chart"]
    bars = {bar["name"]: bar["x"] for bar in chart["spec"]["data"] if bar["type"] == "bar"}
    assert bars == {"forward": [1.0, 3.0], "backward": [2.0, None]}
