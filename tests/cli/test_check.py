"""`tetrace check` as CI meets it: exit codes, JUnit's XML, annotations."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.breakdown.scaled import repeated, scattered
from tests.cli.hostile import write
from tests.cli.test_report import DATA, failure, run
from tetrace.trace import store

BF16, FP8 = DATA / "te4-bf16.sqlite", DATA / "te4-fp8.sqlite"


@pytest.fixture
def budget(tmp_path: Path) -> Path:
    """A budget made of the FP8 run."""
    path = tmp_path / "budget.toml"
    done = run("check", "--init", FP8, "-o", path)
    assert (done.returncode, done.stdout) == (0, "")
    return path


def test_a_run_keeps_the_budget_that_was_made_of_it(budget: Path) -> None:
    done = run("check", FP8, "--budget", budget)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The budget is kept: 12 limits; 1 skipped (no --baseline was given)." in done.stdout
    assert "::" not in done.stdout


def test_a_run_over_budget_ends_with_1_and_a_table_of_what_broke(budget: Path) -> None:
    done = run("check", BF16, "--budget", budget)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert " ".join(" ".join(lines[2:4]).split()).startswith(
        "Over budget: 2 of 13 limits; 1 skipped (no --baseline was given); busy_ms is 3.443 ms; the limit is at most 3.310 ms."
    )
    assert [line.split()[1] for line in lines if line.startswith("broken")] == ["busy_ms", "fp8_coverage_pct"]


def test_budgets_can_be_printed_and_are_not_overwritten(budget: Path) -> None:
    assert run("check", "--init", FP8).stdout == budget.read_text(encoding="utf-8")
    code, line = failure("check", "--init", FP8, "-o", budget)
    assert code == 2
    assert "exists" in line


def test_a_slowdown_against_a_baseline_and_a_rerun(tmp_path: Path) -> None:
    for name, seed, slower in (("base", 1, 1.0), ("same", 2, 1.0), ("slow", 3, 1.03)):
        store.write(repeated(scattered(10, seed, slower)), tmp_path / f"{name}.tetrace")
    base = tmp_path / "base.tetrace"
    assert run("check", tmp_path / "same.tetrace", "--baseline", base).returncode == 0
    done = run("check", tmp_path / "slow.tetrace", "--baseline", base, "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["check"], row["status"]) == ("step_ms against the baseline", "broken")
    assert 1.02 < row["ratio"] < 1.04
    assert 0 < row["ratio_noise"] < 0.02


def test_junit(budget: Path, tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    assert run("check", BF16, "--budget", budget, "--junit", file).returncode == 1
    suite = ElementTree.parse(file).getroot()[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "13",
        "failures": "2",
        "skipped": "1",
    }
    failed = {case.get("name"): case.find("failure") for case in suite if case.find("failure") is not None}
    assert set(failed) == {"busy_ms", "fp8_coverage_pct"}
    assert failed["busy_ms"] is not None
    assert failed["busy_ms"].get("message") == "busy_ms is 3.443 ms; the limit is at most 3.310 ms"
    # A file of the last build is replaced.
    assert run("check", FP8, "--budget", budget, "--junit", file).returncode == 0
    assert ElementTree.parse(file).getroot()[0].get("failures") == "0"


def test_annotations_for_github(budget: Path) -> None:
    done = run("check", BF16, "--budget", budget, GITHUB_ACTIONS="true")
    commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert commands == [
        "::error title=tetrace%3A busy_ms::te4-bf16.sqlite: busy_ms is 3.443 ms; the limit is at most 3.310 ms",
        "::error title=tetrace%3A fp8_coverage_pct::te4-bf16.sqlite: fp8_coverage_pct is 0%25; the limit is at least 99%25",
    ]
    done = run("check", FP8, "--budget", budget, "--github")
    assert done.stdout.splitlines()[-1].startswith("::notice title=tetrace::te4-fp8.sqlite: The budget is kept")
    done = run("check", BF16, "--budget", budget, "--github", "--json")
    assert json.loads(done.stdout)["broken"] == 2, "annotations do not spoil a document"
    assert done.stderr.startswith("::error ")
    assert "::" not in run("check", BF16, "--budget", budget, "--no-github", GITHUB_ACTIONS="true").stdout


def test_a_word_that_may_not_be_and_a_latency_that_is_not_told(tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    budget.write_text('[limits]\nattention_backend = "none"\nlaunch_latency_us = { max = 1000000 }\n', encoding="utf-8")
    deep = DATA.parent.parent / "profiles/attention/results/h200/te-fused.tetrace"
    done = run("check", deep, "--budget", budget, "--github")
    assert done.returncode == 1
    assert "attention_backend is FusedAttention; may be none\n" in done.stdout
    said = "launch_latency_us is not recorded; the limit is at most 1,000,000.000 µs (hardly a stream was idle at a launch)"
    assert said in done.stdout


def test_unknown_keys_are_told_with_those_near(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text("[limits]\nfp8_coverage = { min = 1 }\n", encoding="utf-8")
    code, line = failure("check", FP8, "--budget", path)
    assert code == 2
    assert line.endswith("no figure in [limits] is called 'fp8_coverage'; close to it are fp8_coverage_pct")


def test_figures_are_listed() -> None:
    done = run("check", "--figures", "--csv")
    assert "largest_saturation_pct,%," in done.stdout
    assert run("check", "--figures").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check"], "name a RUN"),
        (["check", FP8], "name a RUN"),
        (["check", "--init"], "name a RUN"),
        (["check", FP8, "--init", "--budget", "b.toml"], "name a RUN"),
        (["check", FP8, "--budget", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["check", FP8, "--budget", DATA], "cannot be read"),
        (["check", FP8, "--budget", FP8], "a budget has at most"),
        (["check", FP8, "--budget", DATA / "kineto_qwen_h100.json.gz"], "is not UTF-8 text"),
        (["check", FP8, "--baseline", FP8, "--junit", FP8], "is the input"),
    ],
)
def test_wrong_input(arguments: list[str | Path], says: str) -> None:
    code, line = failure(*arguments)
    assert code == 2
    assert says in line


def test_a_budget_that_is_empty_is_no_budget(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("", encoding="utf-8")
    code, line = failure("check", FP8, "--budget", empty)
    assert code == 2
    assert "empty.toml: limits nothing" in line


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    name = "<b>\x1b[31m\u202e::error::"[:14]
    path = write(tmp_path / f"run{name}.tetrace")
    limits = tmp_path / "b.toml"
    limits.write_text(
        '[limits]\nattention_backend = "<script>\\u001b[31m"\nstep_ms = { max = 0.0001 }\n'
        '[[rows]]\nname = "]]>\\u001b[2J\\n::error::x'
        + "k" * 100_000
        + '"\ntable = "modules"\ncolumn = "total_ns"\nmax = 0\n',
        encoding="utf-8",
    )
    junit = tmp_path / "junit.xml"
    done = run("check", path, "--budget", limits, "--junit", junit, "--github", "--wide")
    assert done.returncode == 1, done.stderr
    for text in (done.stdout, junit.read_text(encoding="utf-8")):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\n::error::x" not in text
        assert max(map(len, text.splitlines())) < 2000
    assert len(ElementTree.parse(junit).getroot()[0]) == 3
