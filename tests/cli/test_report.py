"""The command line as a user meets it: exit codes, one-line errors, files, encodings, time."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import tetrace
from tests.cli.hostile import NAMES, write

DATA = Path(__file__).parent.parent / "data"
FP8 = DATA / "te4-fp8.sqlite"


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tetrace` with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "tetrace", *map(str, arguments)]
    env = {
        **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")},
        "PYTHONIOENCODING": "utf-8",
        **environment,
    }
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, check=False)


def failure(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and the one line on standard error."""
    done = run(*arguments)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tetrace: ")
    return done.returncode, lines[0]


def test_version_and_help() -> None:
    assert run("--version").stdout == f"tetrace {tetrace.__version__}\n"
    assert run().stdout == run("--help").stdout
    assert "--kernel REGEX" in run("report", "-h").stdout


def test_the_report_goes_to_a_pipe_without_colour() -> None:
    done = run("report", FP8)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) <= 45


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report"], "Missing argument 'RUN'. Try 'tetrace report --help'."),
        (["nothing"], "No such command 'nothing'. Try 'tetrace --help'."),
        (["report", "missing.sqlite"], "missing.sqlite: no such file"),
        (["report", FP8, "--steps", "100:"], "--steps 100: leaves no step"),
        (["report", FP8, "--steps", "x"], "--steps x: give steady"),
        (["report", FP8, "--kernel", "a("], "--kernel a(: not a regular expression"),
        (["report", FP8, "--kernel", "a", "--by", "module"], "--kernel a lists kernels"),
        (["report", FP8, "--by", "thing"], "Invalid value for '--by': 'thing' is not one of"),
        (["report", FP8, "--device", "7"], "--device 7: no activity ran on it"),
        (["report", FP8, "--process", "7"], "--process 7: no such process"),
        (["report", FP8, "--format", "csv"], "name it with -o"),
        (["report", FP8, "--format", "parquet", "--by", "kernel"], "name a file with -o"),
        (["report", FP8, "-o", FP8, "--force"], "which is never written to"),
        (["report", FP8, "-o", DATA / "README.md"], "exists; choose another name or pass --force"),
        (["report", FP8, "-o", DATA / "stability-bf16.tetrace", "--force"], "is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments: list[str | Path], says: str) -> None:
    code, line = failure(*arguments)
    assert code == 2
    assert says in line


def test_inputs_that_are_no_recordings(tmp_path: Path) -> None:
    (tmp_path / "empty.sqlite").write_bytes(b"")
    (tmp_path / "text.sqlite").write_bytes(b"hello")
    (tmp_path / "cut.sqlite").write_bytes(FP8.read_bytes()[:100_000])
    for name in ("empty", "text", "cut"):
        code, line = failure("report", tmp_path / f"{name}.sqlite")
        assert (code, f"{name}.sqlite" in line) == (2, True)


def test_a_run_without_gpu_activity_is_reported(tmp_path: Path) -> None:
    copy = tmp_path / "host.sqlite"
    copy.write_bytes(FP8.read_bytes())
    with sqlite3.connect(copy) as database:
        for kind in ("KERNEL", "MEMCPY", "MEMSET"):
            database.execute(f"DROP TABLE CUPTI_ACTIVITY_KIND_{kind}")
    done = run("report", copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not captured: activities" in done.stdout


def test_files_are_written_and_not_overwritten_unasked(tmp_path: Path) -> None:
    page, folder, saved = tmp_path / "report.md", tmp_path / "tables", tmp_path / "run.tetrace"
    assert run("report", FP8, "--format", "markdown", "-o", page, "--save", saved).returncode == 0
    assert page.read_text(encoding="utf-8").startswith("# te4-fp8.sqlite\n")
    assert failure("report", FP8, "--format", "markdown", "-o", page)[0] == 2
    assert failure("report", FP8, "--save", saved)[0] == 2
    assert run("report", FP8, "--format", "markdown", "-o", page, "--save", saved, "--force").returncode == 0
    assert run("report", saved).stdout == run("report", FP8).stdout.replace("te4-fp8.sqlite", "run.tetrace")
    assert run("report", saved, "--format", "parquet", "-o", folder).returncode == 0
    assert {file.suffix for file in folder.iterdir()} == {".parquet"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.md", "run.tetrace", "tables"]


def test_a_folder_or_a_slash_names_where_it_goes(tmp_path: Path) -> None:
    """The folder of a slash is made, and gone again where nothing came into it."""
    there, made = tmp_path / "there", tmp_path / "made"
    there.mkdir()
    budget = f"{made}/budget.toml"
    for arguments, names in (
        (["report", FP8, "-o", there, "--save", f"{made}/"], [there / "te4-fp8.txt", made / "te4-fp8.tetrace"]),
        (["report", FP8, "-o", f"{made}/", "--csv", "--by", "kernel"], [made / "te4-fp8.csv"]),
        (["report", FP8, "-o", f"{made}/", "--csv", "--force"], [made / "kernels.csv"]),
        (["report", FP8, "--html", there], [there / "te4-fp8.html"]),
        (["export", FP8, "--perfetto", there, "--steps", "7"], [there / "te4-fp8.pftrace"]),
        (["export", FP8, "--chrome", f"{made}/", "--steps", "7"], [made / "te4-fp8.json"]),
        (["diff", FP8, FP8, "--html", f"{made}/"], [made / "diff.html"]),
        (["fp8", "coverage", FP8, "--json", "-o", there], [there / "coverage.json"]),
        (["check", "--init", FP8, "-o", f"{made}/"], [made / "budget.toml"]),
        (["check", FP8, "--budget", budget, "--junit", made, "-o", made], [made / "junit.xml", made / "check.txt"]),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert all(name.exists() for name in names), (arguments, done.stderr)
    for arguments, says in (
        (["report", "gone.sqlite", "-o", f"{tmp_path}/new/"], "gone.sqlite: no such file"),
        (["report", FP8, "-o", f"{tmp_path}/gone/new/"], "gone/new: its folder"),
        (["report", FP8, "-o", there], "te4-fp8.txt: exists; choose another name or pass --force"),
    ):
        assert says in failure(*arguments)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "there"]


def test_short_names_of_formats() -> None:
    for name in ("json", "csv"):
        assert (
            run("report", FP8, f"--{name}", "--by", "kernel").stdout
            == run("report", FP8, "--format", name, "--by", "kernel").stdout
        )


@pytest.mark.parametrize("option", ["-o", "--html", "--save"])
def test_a_mistyped_folder_is_not_made(tmp_path: Path, option: str) -> None:
    path = tmp_path / "nope" / "x.tetrace"
    code, line = failure("report", FP8, option, path)
    assert (code, line) == (
        2,
        f"tetrace: {path}: its folder {path.parent} does not exist; make it, or choose another",
    )
    assert not path.parent.exists()


def test_a_recording_is_called_one(tmp_path: Path) -> None:
    code, line = failure("report", FP8, "--save", tmp_path / "foo.txt")
    assert (code, line.endswith("foo.txt: a recording is a folder that ends in .tetrace; name it foo.tetrace")) == (
        2,
        True,
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_recordings_names_them() -> None:
    code, line = failure("report", DATA)
    assert code == 2
    assert line.startswith(f"tetrace: {DATA}: this folder holds ddp-straggler.sqlite, graphs-node.sqlite, ")
    assert line.endswith("and 1 more; name one of them")


def test_a_page_is_one_file(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    done = run("report", FP8, "--html", page)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"tetrace: wrote {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert failure("report", FP8, "--html", page)[1].endswith("exists; choose another name or pass --force")
    assert "leave --format and --output out" in failure("report", FP8, "--html", page, "--format", "csv")[1]
    assert "leave --by and --kernel out" in failure("report", FP8, "--html", tmp_path / "b.html", "--by", "kernel")[1]
    assert [file.name for file in tmp_path.iterdir()] == ["out.html"]


CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("format_name", ["terminal", "markdown", "json", "csv", "html"])
@pytest.mark.parametrize("options", [[], ["--by", "kernel"], ["--kernel", "."], ["--full"]], ids=" ".join)
def test_hostile_names_do_no_harm(tmp_path: Path, format_name: str, options: list[str]) -> None:
    hostile = write(tmp_path / "hostile.tetrace")
    if format_name == "html" and options != []:
        return  # a page has no such options
    if format_name in ("csv", "html") and not {"--by", "--kernel"} & set(options):
        done = run("report", hostile, "--format", format_name, "-o", tmp_path / "out", *options)
        files = [tmp_path / "out"] if format_name == "html" else sorted((tmp_path / "out").iterdir())
        texts = [file.read_text(encoding="utf-8") for file in files]
    else:
        done = run("report", hostile, "--top", "0", "--format", format_name, *options)
        texts = [done.stdout]
    assert done.returncode == 0, done.stderr
    for text in texts:
        assert not CONTROLS.search(text), CONTROLS.search(text)
        assert "\n::error::" not in text
        if format_name == "csv":
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert not [cell for cell in cells if re.match(r"\s*[=+@]|\s*-(?!\d)", cell)]
        if format_name == "json":
            rows = json.loads(text)["tables"]["kernel_matches" if "--kernel" in options else "kernels"]
            assert set(NAMES) <= {row["name"] for row in rows}
    if format_name == "csv":
        assert any("'=cmd|' /C calc'!A0" in text for text in texts)


def test_one_table_as_csv_on_standard_output() -> None:
    done = run("report", FP8, "--format", "csv", "--by", "lane")
    head, row = done.stdout.splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["steps"] == "13"


def test_json_on_standard_output() -> None:
    assert json.loads(run("report", FP8, "--format", "json", "--steps", "5:8").stdout)["selection"]["used"] == [5, 6, 7]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_is_good_enough(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tetrace", "report", str(FP8)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert ("█" in text) == (encoding == "utf-8")
    assert "?" not in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m tetrace report {FP8} --full --top 0 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode in (0, 141)) == ("", True)


def test_a_defect_is_one_line_unless_asked_for(tmp_path: Path) -> None:
    script = "import tetrace.cli.main as m; m.tetrace.main = lambda **_: 1 / 0; m.main([])"
    quiet = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert quiet.returncode == 70
    assert re.fullmatch(r"tetrace: defect: ZeroDivisionError: .*\n", quiet.stderr)
    env = {**os.environ, "TETRACE_DEBUG": "1"}
    loud = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert "Traceback" in loud.stderr


def test_the_terminal_path_does_not_import_pandas() -> None:
    script = f"""
import sys
from tetrace.cli import main
sys.argv = ["tetrace", "report", {str(FP8)!r}]
try:
    main.main()
finally:
    sys.stderr.write(str("pandas.core" in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "False"


def test_a_command_in_a_finding_is_whole_however_long_its_path_is(tmp_path: Path) -> None:
    recording = tmp_path / f"{'long' * 5}.tetrace"
    shutil.copytree(DATA / "stability-e4m3.tetrace", recording)
    given = os.path.relpath(recording)
    assert len(given) > 50
    assert f"tetrace fp8 health {given}" in " ".join(run("report", given).stdout.split())
