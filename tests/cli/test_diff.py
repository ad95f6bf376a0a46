"""`tetrace diff` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from tests.breakdown.scaled import repeated, scattered
from tests.cli.hostile import NAMES, write
from tests.cli.test_report import DATA, failure, run
from tests.report.browser import chromium, draw_all, opened
from tetrace.trace import store

BF16, FP8 = DATA / "te4-bf16.sqlite", DATA / "te4-fp8.sqlite"


def test_a_part_within_noise_is_called_so_where_it_is_named() -> None:
    done = run("diff", DATA / "drift/large-none.tetrace", DATA / "drift/large-block.tetrace")
    assert (
        "\nGEMMs −9.26, quantization +8.53, attention −0.77 (noise), all else −0.44 ms: net −1.94 ms a step"
        in done.stdout
    )


def test_what_passes_between_queued_kernels_is_no_waiting_for_the_host() -> None:
    done = run("diff", DATA / "drift/large-none.tetrace", DATA / "drift/large-block.tetrace")
    assert "idles 1.00 → 1.19 ms, none of it waiting for the\n  host.\n" in done.stdout
    assert not re.search(r"host-bound|launch latency|launch_latency_us", done.stdout)


def test_bf16_against_fp8_reads_as_a_few_sentences() -> None:
    done = run("diff", BF16, FP8)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "te4-bf16.sqlite → te4-fp8.sqlite"
    works = lines.index(
        "The GPU works 3.44 → 3.15 ms a step (−8.4%) and idles 11.6 → 15.3 ms, waiting for the host 11.5 →"
    )
    assert lines[works + 1] == "  15.1 ms; the recorder slows the host: time steps without it before you judge."
    parts = lines.index(
        "Recorded: GEMMs −0.69, quantization +0.32, waiting for the host +3.58, all else +0.11 ms: net +3.32"
    )
    assert lines[parts + 1] == "  ms a step (+22.0%), 15.1 to 18.4 ms."
    assert works < parts
    assert re.search(r"-0\.429 +gemm +backward +nvjet bf16 → nvjet fp8", done.stdout)
    assert re.search(r"fp8_coverage_pct +0% +100%", done.stdout)
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in done.stdout


def test_json_adds_up_to_the_nanosecond() -> None:
    (one,) = json.loads(run("diff", BF16, FP8, "--json").stdout)["comparisons"]
    step = Fraction(one["step"]["difference_ns_exact"])
    assert step == Fraction(one["step"]["b_total_ns"], one["b_steps"]) - Fraction(
        one["step"]["a_total_ns"], one["a_steps"]
    )
    for name in ("parts", "rows", "phases", "modules"):
        table = one["tables"][name]
        assert table["adds_up_to"] == "step"
        assert sum(Fraction(row["difference_ns_exact"]) for row in table["rows"]) == step, name
    assert one["figures"]["fp8_coverage_pct"] == {"a": 0.0, "b": 100.0, "unit": "%"}
    assert {row["verdict"] for row in one["tables"]["rows"]["rows"]} == {"changed", "noise"}


def test_csv_holds_every_row_of_every_table() -> None:
    rows = list(csv.DictReader(io.StringIO(run("diff", BF16, FP8, "--csv").stdout)))
    tables = {row["table"] for row in rows}
    assert tables == {"parts", "rows", "phases", "modules", "kernels", "idle", "quantization", "formats", "attention"}
    (gemm,) = [row for row in rows if (row["table"], row["row"]) == ("parts", "busy | gemm")]
    assert float(gemm["difference_ms_per_step"]) == pytest.approx(-0.690946, abs=1e-6)
    alone = csv.DictReader(io.StringIO(run("diff", BF16, FP8, "--csv", "--by", "kernels").stdout))
    assert {row["table"] for row in alone} == {"kernels"}


def test_markdown_and_every_table(tmp_path: Path) -> None:
    done = run("diff", BF16, FP8, "--full", "--format", "markdown", "-o", tmp_path / "diff.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "diff.md").read_text(encoding="utf-8")
    for title in ("What changed", "Phases", "Modules", "Kernels", "Idle time", "Quantization", "GEMMs by format"):
        assert f"## {title}" in text


def test_a_run_against_itself() -> None:
    done = run("diff", FP8, FP8)
    assert "No difference: a step takes 18.4 ms in both." in done.stdout
    (one,) = json.loads(run("diff", FP8, FP8, "--json").stdout)["comparisons"]
    assert {row["difference_ns_exact"] for table in one["tables"].values() for row in table["rows"]} == {"0"}


def test_two_halves_of_one_run_are_noise(tmp_path: Path) -> None:
    path = tmp_path / "steady.tetrace"
    store.write(repeated(scattered(20, 3), 3, jitter=0.02), path)
    done = run("diff", path, path, "--steps", "0:10", "--steps", "10:20", "--json")
    (one,) = json.loads(done.stdout)["comparisons"]
    assert {row["verdict"] for table in one["tables"].values() for row in table["rows"]} <= {"noise", "same"}
    assert "; so is every part of it." in one["sentence"]
    assert (one["a"], one["b"]) == ("steady.tetrace 0:10", "steady.tetrace 10:20")


def test_two_halves_of_a_real_run_are_noise() -> None:
    path = FP8.parent / "stability-bf16.tetrace"
    done = run("diff", path, path, "--steps", "4:12", "--steps", "12:20", "--json")
    (one,) = json.loads(done.stdout)["comparisons"]
    assert {row["verdict"] for table in one["tables"].values() for row in table["rows"]} <= {"noise", "same"}
    assert "within noise" in one["sentence"]


def test_three_runs_are_each_compared_with_the_first() -> None:
    done = run("diff", BF16, FP8, BF16)
    lines = done.stdout.splitlines()
    assert "2 runs against te4-bf16.sqlite." in lines
    assert "te4-bf16.sqlite: No difference: a step takes 15.1 ms in both." in lines


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / side / "run.sqlite" for side in ("before", "after")]
    for path, source in zip(paths, (BF16, FP8), strict=True):
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
    assert run("diff", *paths).stdout.startswith("before/run.sqlite → after/run.sqlite\n")


def test_too_few_steps_are_said(tmp_path: Path) -> None:
    done = run("diff", BF16, FP8, "--steps", "1:5")
    assert "! too few steps to tell differences from noise: te4-bf16.sqlite (4), te4-fp8.sqlite (4)" in done.stdout
    assert "? where a run has too few steps to tell noise" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["diff", FP8], "is one run; name the run to compare it with too"),
        (["diff", FP8, "nowhere.sqlite"], "nowhere.sqlite"),
        (
            ["diff", FP8, BF16, "--steps", "1:2", "--steps", "1:2", "--steps", "1"],
            "--steps is given 3 times for 2 runs",
        ),
        (["diff", FP8, BF16, "--by", "nothing"], "nothing"),
        (["diff", FP8, BF16, "-o", BF16, "--force"], "is the input"),
        (["diff", FP8, BF16, "--html", "/nope/x.html"], "/nope/x.html: its folder /nope does not exist"),
    ],
)
def test_wrong_input(arguments: list[str | Path], says: str) -> None:
    code, line = failure(*arguments)
    assert code == 2
    assert says in line


@pytest.mark.parametrize("format_name", ["terminal", "markdown", "json", "csv"])
def test_hostile_names_do_no_harm(tmp_path: Path, format_name: str) -> None:
    a, b = write(tmp_path / "a.tetrace"), write(tmp_path / "b.tetrace", 12, "\x1b[2Jonly here\u202e")
    done = run("diff", a, b, "--full", "--top", "0", "--format", format_name)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    if format_name == "json":
        text = json.dumps(json.loads(text), ensure_ascii=False)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), "no control characters"
    assert "\n::error::" not in text
    if format_name == "terminal":
        assert max(map(len, text.splitlines())) <= 100
    if format_name == "markdown":
        # A tag is text only inside of code.
        assert "<script>" not in re.sub(r"``? ?[^\n]*?``?", "", text)
    assert len(text) < 60 * max(map(len, NAMES))


def test_a_page_with_the_runs_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "diff.html"
    done = run("diff", BF16, FP8, "--html", page)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    text = page.read_text(encoding="utf-8")
    assert len(text) < 6_000_000
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    bars = data["sections"][0]["blocks"][0]["spec"]["data"]
    assert next(bar["x"] for bar in bars if bar["name"] == "gemm") == [1.759759, 1.068814]
    assert [sum(bar["x"][side] for bar in bars) for side in (0, 1)] == pytest.approx([15.089493, 18.405070], abs=1e-4)
    titles = [section["title"] for section in data["sections"]]
    assert titles[:3] == ["Steps side by side", "Step time by category and cause", "What changed"]
    code, line = failure("diff", BF16, FP8, "--html", page)
    assert (code, "exists" in line) == (2, True)


def test_a_page_of_hostile_names_is_quiet_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "diff.html"
    paths = [write(tmp_path / "a.tetrace"), write(tmp_path / "b.tetrace", 12, "only here")]
    with chromium() as browser:
        assert run("diff", *paths, "--html", page).returncode == 0
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        shown = opened(browser, page)
        draw_all(shown.page)
        assert shown.page.locator("section table").count() >= 5
        assert shown.quiet, (shown.complaints, shown.requests)
