"""`tetrace fp8` as a user meets it: what is said, in every format, and errors of one line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.cli.test_report import failure, run
from tests.fp8.made import Made, bfloat16
from tests.traces import Recording
from tetrace import analyze, fp8, load
from tetrace.cli.fp8_tensor import sparkline
from tetrace.cli.main import tetrace
from tetrace.trace import store

GPU = Path(__file__).parent.parent / "data/stability-e4m3.tetrace"
LOST = "layers.2.mlp.fc1.input"


def training(factor: float = 1.0, planted: bool = True) -> Made:
    """Ten steps of three layers; with an Inf in layer 2 at step 7 and a weight that is scaled at step 8 if `planted`."""
    made, random = Made(), np.random.default_rng(0)
    for step in range(10):
        for layer in range(3):
            values = bfloat16(random.normal(size=(16, 16)))
            if planted and (step, layer) == (7, 2):
                values[3, 3] = np.inf
            made.tensor(step, f"layers.{layer}.mlp.fc1.input", values * np.float32(factor), scale=64.0)
            weight = bfloat16(random.normal(size=(16, 16)) * (1e6 if planted and (step, layer) == (8, 1) else 1))
            made.tensor(step, f"layers.{layer}.mlp.fc1.weight", weight, scale=64.0)
        made.check(step, "layers.2.mlp.fc1.output", nans=4 if planted and step == 7 else 0)
    return made


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording with planted faults."""
    store.write(training().trace(), tmp_path / "run.tetrace")
    return tmp_path / "run.tetrace"


def printed(*arguments: str | Path) -> str:
    """What a command prints."""
    result = CliRunner().invoke(tetrace, ["fp8", *map(str, arguments)], env={"COLUMNS": "100"}, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def said(*arguments: str | Path) -> str:
    """What a command prints on a terminal of 100 columns."""
    text = printed(*arguments)
    assert all(len(line) <= 100 for line in text.splitlines())
    return text


def test_the_group_lists_its_commands() -> None:
    for arguments in (["fp8"], ["fp8", "--help"]):
        text = run(*arguments).stdout
        assert all(name in text for name in ("health", "tensor", "nan", "whatif", "compare"))
    assert failure("fp8", "nothing")[1].endswith("No such command 'nothing'. Try 'tetrace fp8 --help'.")


def test_of_block_scaling_it_is_said_which_copy_was_looked_at(recording: Path, tmp_path: Path) -> None:
    made = Made()
    for step in range(2):
        made.tensor(step, "a.input", np.ones((2, 128)), scale=float("nan"), scaling="block", layouts=("1x128",))
    store.write(made.trace(), tmp_path / "blocks.tetrace")
    of_blocks = [["health"], ["tensor", "a.input"], ["whatif", "format=E5M2"], ["compare", tmp_path / "blocks.tetrace"]]
    for command, *more in of_blocks:
        assert "of the copy by rows" in " ".join(said(command, tmp_path / "blocks.tetrace", *more).split()), command
    plain = [["health"], ["tensor", "layers.0.mlp.fc1.input"], ["whatif", "margin=1"], ["compare", recording]]
    for command, *more in plain:
        assert "copy by" not in said(command, recording, *more), command


def test_a_tensor_of_which_only_scales_are_known_is_shown_by_its_updates(tmp_path: Path) -> None:
    made = Made()
    for step in range(3):
        made.tensor(step, "a.core.qkv", [1.0], scale=448.0)
        made.update(step, "a.core.s", 448.0 if step else 1.0, 448.0, amax=1.0, history_length=16)
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = said("tensor", tmp_path / "run.tetrace", "a.core.s")
    assert "a.core.s: E4M3, delayed, 3 steps." in text
    assert f"scale {sparkline([1.0, 448.0, 448.0])} 1 to 448" in text
    found = json.loads(printed("tensor", tmp_path / "run.tetrace", "a.core.s", "--json"))
    assert (found["seen_as"], [row["amax"] for row in found["rows"]]) == ("update", [1.0, 1.0, 1.0])


def test_health_names_what_was_planted(recording: Path) -> None:
    lines = said("health", recording).splitlines()
    table = lines[lines.index("Problems, worst first") + 2 :]
    assert table[0].split() == ["critical", "NaN", "or", "Inf", "begins", "here", LOST, "7", "1", "elements"]
    assert table[1].split()[:4] == ["critical", "Saturation", "layers.1.mlp.fc1.weight", "8"]
    assert any(line.startswith("warning   Amax jumps") and "layers.1.mlp.fc1.weight" in line for line in table)
    assert f"see `tetrace fp8 whatif {recording} recipe=current`." in " ".join(" ".join(table).split())


def test_paths_in_commands_are_as_a_shell_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "my run.tetrace"
    store.write(training().trace(), path)
    for command in ("health", "nan"):
        text = " ".join(printed(command, path).split())
        assert f"'{path}'" in text
        assert "RUN" not in text
    assert all(" RUN" not in row["advice"] for row in json.loads(printed("health", path, "--json"))["rows"])


def test_errors_name_the_path_that_was_given(tmp_path: Path) -> None:
    """The name that a recording had when it was made is another."""
    path = tmp_path / "renamed.tetrace"
    store.write(Recording().range("forward", 0, 10).launch("gemm", (1, 2), (3, 9)).trace(), path)
    for command in (["health"], ["tensor", LOST], ["whatif", "margin=1"], ["shapes"], ["compare", path]):
        assert "renamed.tetrace: " in failure("fp8", command[0], path, *command[1:])[1]


def test_a_problem_of_many_tensors_says_how_many() -> None:
    assert "Gradients lost  lm_head.grad_output +16 more" in said("health", GPU)


def test_health_of_a_run_without_fp8(tmp_path: Path) -> None:
    store.write(Made().check(0, "a.output").trace(), tmp_path / "run.tetrace")
    text = said("health", tmp_path / "run.tetrace")
    assert "run.tetrace · 1 tensor, 0 quantized to FP8 · 1 step" in text
    assert "Nothing that was looked at was quantized to FP8: 1 tensor in 1 step, all finite." in text
    assert json.loads(printed("health", tmp_path / "run.tetrace", "--json"))["healthy"] is False


def test_nan_names_the_weight_of_a_linear(tmp_path: Path) -> None:
    made = Made()
    for step in range(2):
        made.check(step, "a.output", infs=step, operation="Linear")
        made.check(step, "a.parameter", nans=step, phase="optimizer", operation="weight", amax=0.5)
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert (
        "its a.weight.parameter: finite, amax 0.5, when last read before this forward, after step 0; 1 NaN of 64 elements"
        in text
    )
    assert "exponentiates" not in text


def test_compare_says_over_which_steps(recording: Path, tmp_path: Path) -> None:
    store.write(training(planted=False).trace(), tmp_path / "sound.tetrace")
    text = said("compare", tmp_path / "sound.tetrace", recording)
    assert "over 10 steps but for the amax where they part" in text
    assert "amax there A" in text


def test_tensor_says_where_it_is_worst_and_leaves_out_what_was_not_recorded(recording: Path) -> None:
    assert "quantize, 10 steps." in " ".join(said("tensor", recording, "layers.0.mlp.fc1.input").split())
    assert "; clipped most in step 8 (" in " ".join(said("tensor", recording, "layers.1.mlp.fc1.weight").split())
    text = said("tensor", recording, "layers.2.mlp.fc1.output")
    assert "not finite in 1, first in step 7." in text
    head = text.splitlines()[text.splitlines().index("By step") + 1]
    assert head.split() == ["step", "NaN", "Inf"]


def test_of_codes_alone_no_loss_is_told(tmp_path: Path) -> None:
    """The first gradients become zero in a kernel that leaves codes alone: that is no 0 of flushed."""
    made = Made()
    for step in range(2):
        made.tensor(step, "a.input", [2.0, 0.0], scale=224.0, scaling="current", source="quantized")
        made.tensor(step, "b.input", [2.0, 0.5], scale=400.0)
    path = tmp_path / "run.tetrace"
    store.write(made.trace(), path)
    text = said("tensor", path, "a.input")
    assert "a.input: E4M3, current, bfloat16, 2, quantize, 2 steps; only its FP8 codes were seen." in " ".join(
        text.split()
    )
    lines = text.splitlines()
    assert lines[lines.index("By step") + 1].split() == [
        *("step", "amax", "scale", "of", "range", "at", "±max", "flushed", "NaN", "Inf", "zeros"),
    ]
    assert lines[lines.index("By step") + 2].split() == ["0", "2", "224", "1×", "0", "–", "0", "0", "50.0%"]
    assert "clipped" not in text
    row = json.loads(printed("tensor", path, "a.input", "--json"))["rows"][0]
    assert (row["clipped"], row["flushed"], row["at_max"]) == (None, None, 0.0)
    assert "codes" not in said("tensor", path, "b.input")
    text = printed("compare", path, path, "--wide")
    assert "A: only the FP8 codes of 1 tensor were seen; those that are the largest value are at ±max" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(("tensor", "a.", "b."))}
    assert " ".join(rows["tensor"].split()).endswith("clipped A B at ±max A B flushed A B SNR A B")
    assert rows["a.input"].split()[-8:] == ["–", "–", "0", "0", "–", "–", "–", "–"]


def test_of_a_pair_whose_a_was_not_recorded_b_is_named(tmp_path: Path) -> None:
    for name, source in (("a", "quantized"), ("b", "input")):
        store.write(Made().tensor(0, "a.input", [2.0], source=source).trace(), tmp_path / f"{name}.tetrace")
    text = printed("compare", tmp_path / "a.tetrace", tmp_path / "b.tetrace", "--wide")
    assert "clipped B at ±max A flushed B SNR B" in " ".join(text.split())


def test_health_of_a_sound_run(tmp_path: Path) -> None:
    store.write(training(planted=False).trace(), tmp_path / "run.tetrace")
    assert "Healthy: nothing of what tetrace looks for in 7 tensors in 10 steps." in said(
        "health", tmp_path / "run.tetrace"
    )


def test_nan_tells_the_story(recording: Path) -> None:
    text = " ".join(said("nan", recording).split())
    assert f"The first that is not finite is {LOST} at step 7: 1 Inf of 256 elements." in text
    assert "made between layers.1.mlp.fc1.weight (finite, amax" in text
    assert "then: layers.2.mlp.fc1.output" in text
    assert f"Its history: tetrace fp8 tensor {recording} {LOST}" in text


def test_nan_where_nothing_was_checked_says_so(tmp_path: Path) -> None:
    store.write(Made().tensor(0, "a.input", [1.0]).trace(), tmp_path / "run.tetrace")
    text = said("nan", tmp_path / "run.tetrace")
    assert "! only what is quantized was looked at" in text
    assert "All finite" in text


def test_tensor_has_a_sparkline_and_a_row_a_step(recording: Path) -> None:
    text = said("tensor", recording, "layers.1.mlp.fc1.weight")
    (line,) = [line for line in text.splitlines() if line.startswith("amax  ")]
    assert line.split()[1] == "▁▁▁▁▁▁▁▁█▁"
    lines = text.splitlines()
    rows = lines[lines.index("By step") + 2 :]
    assert [row.split()[0] for row in rows[:10]] == [str(step) for step in range(10)]
    assert "×" in next(row for row in said("tensor", recording, LOST).splitlines() if row.startswith("amax "))


def test_tensor_as_csv(recording: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(printed("tensor", recording, LOST, "--csv"))))
    assert [row["step"] for row in rows] == [str(step) for step in range(10)]
    assert (rows[7]["infs"], rows[6]["infs"], rows[0]["next_scale"]) == ("1", "0", "")


def test_whatif_answers_and_says_what_it_had(recording: Path) -> None:
    text = " ".join(said("whatif", recording, "recipe=delayed,margin=1", "history=512").split())
    assert "! an amax history of 512 steps was asked for, the longest recorded one has 9" in text
    assert (
        "recipe=delayed,margin=1,history=512 against what ran, of 6 tensors, each by its worst step: more than 0.01% clipped "
        "in 1 → 1, more than 1% flushed in 0 → 1; SNR better by 1 dB or more in 0, worse in 0." in text
    )


def test_a_history_that_nobody_asked_for_is_not_called_so(tmp_path: Path) -> None:
    made = Made()
    for step in range(3):
        made.tensor(step, "a.input", [2.0, 0.5], scale=224.0, scaling="current")
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("whatif", tmp_path / "run.tetrace", "recipe=delayed").split())
    assert "! it would have an amax history of 1,024 steps, the longest recorded one has 2" in text
    assert "asked for" not in text


def test_what_is_not_about_numbers_is_left_to_the_report() -> None:
    for command in (["health"], ["nan"], ["tensor", "(loss)"], ["whatif", "margin=1"], ["compare", str(GPU)]):
        assert "cuDNN" not in printed(command[0], GPU, *command[1:])
    assert "cuDNN" in run("report", GPU).stdout


def test_compare_says_where_they_part(recording: Path, tmp_path: Path) -> None:
    store.write(training(planted=False).trace(), tmp_path / "sound.tetrace")
    text = " ".join(said("compare", tmp_path / "sound.tetrace", recording).split())
    assert f"They part at step 7 in {LOST}" in text
    assert text.startswith("A sound.tetrace · B run.tetrace")
    assert "They do not part" in said("compare", recording, recording)


COMMANDS = [["health"], ["nan"], ["tensor", LOST], ["whatif", "recipe=current"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_format(command: list[str], recording: Path, tmp_path: Path) -> None:
    name, *others = command
    document = json.loads(printed(name, recording, *others, "--json"))
    rows = list(csv.DictReader(io.StringIO(printed(name, recording, *others, "--format", "csv"))))
    assert document["source"].startswith("run.tetrace")
    assert len(rows) == len(document["rows"]) > 0
    assert set(rows[0]) == set(document["rows"][0])
    page = printed(name, recording, *others, "--format", "markdown")
    assert page.startswith("# run.tetrace · ")
    assert document["verdict"].split(":")[0].split(" (")[0] in page.replace("\\", "")
    assert run("fp8", name, recording, *others, "--format", "markdown", "-o", tmp_path / "page.md").returncode == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_compare_in_every_format(recording: Path) -> None:
    document = json.loads(printed("compare", recording, recording, "--json"))
    assert (len(document["rows"]), document["steps"]) == (7, list(range(10)))
    assert printed("compare", recording, recording, "--csv").startswith("module,role,steps,parts_at,")


def test_rows_are_limited_for_people_only(recording: Path) -> None:
    assert "3 more rows: --top 0 shows all" in said("whatif", recording, "recipe=current", "--top", "3")
    assert len(json.loads(printed("whatif", recording, "recipe=current", "--top", "3", "--json"))["rows"]) == 6


def test_a_terminal_that_knows_ascii_only(recording: Path) -> None:
    for command in COMMANDS:
        done = run("fp8", command[0], recording, *command[1:], PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "?" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["health"], "Missing argument 'RUN'. Try 'tetrace fp8 health --help'."),
        (["health", "missing.tetrace"], "missing.tetrace: no such file"),
        (["tensor", "RUN", "layers.2.mlp.fc1.imput"], f"near it: {LOST}"),
        (["tensor", "RUN", "layers.2.mlp.fc1"], f"give one of {LOST}"),
        (["whatif", "RUN"], "Missing argument 'NAME=VALUE...'"),
        (["whatif", "RUN", "recipe=better"], "recipe=better: give one of current, delayed, block, mxfp8"),
        (["whatif", "RUN", "recipe=block"], "record with `tetrace record --fp8 --fp8-blocks`"),
        (["compare", "RUN", "RUN", "--tolerance", "x"], "'x' is not a valid float"),
        (["health", "RUN", "-o", "RUN", "--force"], "which is never written to"),
        (["health", "RUN", "--format", "parquet"], "Invalid value for '--format'"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], says: str, recording: Path) -> None:
    code, line = failure("fp8", *(recording if word == "RUN" else word for word in arguments))
    assert (code, says in line) == (2, True), line


@pytest.mark.parametrize("command", [*COMMANDS, ["compare"]], ids=lambda command: command[0])
def test_a_recording_without_statistics_says_how_to_make_one(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "plain.tetrace"
    store.write(Recording().range("forward", 0, 10).launch("gemm", (1, 2), (3, 9)).trace(), path)
    others = [path] if command[0] == "compare" else command[1:]
    code, line = failure("fp8", command[0], path, *others)
    assert (code, "no FP8 statistics were recorded; record with `tetrace record --fp8 COMMAND`" in line) == (2, True)


def test_the_report_says_it_too(recording: Path) -> None:
    text = " ".join(run("report", recording, COLUMNS="400").stdout.split())
    assert "FP8 values: 3 problems in 7 tensors" in text
    assert f"NaN FP8: NaN or Inf begins here: tetrace fp8 nan {recording}" in text
    page = run("report", recording, "--format", "markdown").stdout
    assert "1. **NaN**: FP8: NaN or Inf begins here." in page


def test_the_reports_advice_can_be_pasted(tmp_path: Path) -> None:
    """In every format: the path as it was given, as a shell takes it."""
    path = tmp_path / "my run.tetrace"
    store.write(training().trace(), path)
    for name in ("terminal", "markdown", "json"):
        text = run("report", path, "--format", name, COLUMNS="400").stdout
        assert f"tetrace fp8 nan '{path}'" in text.replace("\\_", "_"), name
    document = json.loads(run("report", path, "--format", "json").stdout)
    advice = next(found["advice"] for found in document["findings"] if found["name"] == "fp8_non_finite")
    assert shlex.split(advice) == ["tetrace", "fp8", "nan", str(path)]
    assert run(*shlex.split(advice)[1:]).returncode == 0
    shutil.copytree(GPU, path, dirs_exist_ok=True)
    assert f"tetrace fp8 health '{path}'" in run("report", path, "--format", "html").stdout


def test_advice_names_no_run_that_it_does_not_know(recording: Path) -> None:
    assert analyze(load(recording)).findings[0].advice == "tetrace fp8 nan RUN"


@pytest.mark.parametrize("command", [*COMMANDS, ["compare"]], ids=lambda command: command[0])
def test_a_mistyped_folder_is_not_made(command: list[str], recording: Path, tmp_path: Path) -> None:
    page = tmp_path / "nope" / "page.md"
    others = [recording] if command[0] == "compare" else command[1:]
    code, line = failure("fp8", command[0], recording, *others, "-o", page)
    said = f"tetrace: {page}: its folder {page.parent} does not exist; make it, or choose another"
    assert (code, line, page.parent.exists()) == (2, said, False)


def test_health_does_not_import_pandas(recording: Path) -> None:
    """It is part of the report, which starts without."""
    script = "import sys\nfrom tetrace.cli.main import tetrace\n"
    script += f"tetrace.main(['fp8', 'health', {str(recording)!r}], standalone_mode=False)\n"
    script += "sys.exit('pandas.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("values", "bad", "bars"),
    [
        ([1, 2, 4, 8], [], "▁▃▆█"),
        ([3, 3], [], "▁▁"),
        ([1, float("nan"), 128], [False, False, True], "▁ ×"),
        ([], [], ""),
        ([0, 1, 2], [], " ▁█"),
    ],
)
def test_sparklines(values: list[float], bad: list[bool], bars: str) -> None:
    assert sparkline(values, bad) == bars


def test_a_long_sparkline_keeps_its_peaks() -> None:
    values = [1.0] * 1000
    values[777] = 1e6
    line = sparkline(values, width=50)
    assert (len(line), line.count("█"), line.index("█")) == (50, 1, 38)


def test_the_public_names_are_loaded_when_they_are_used() -> None:
    for name in fp8.__all__:
        if name != "inspect":  # it needs torch
            assert callable(getattr(fp8, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fp8.nothing


def test_an_output_whose_module_quantizes_nothing(tmp_path: Path) -> None:
    made = Made().check(0, "a.output").check(0, "b.output", nans=1, operation="Linear")
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert "made between a.output (finite) and b.output: in the forward of b (Linear), or just before it" in text


def test_a_gradient_that_backward_made(tmp_path: Path) -> None:
    """Gradients are read together: none is made after another one, and the order is that of backward."""
    made = Made()
    for layer in "abcd":
        made.check(0, f"{layer}.output", operation="Linear")
    made.check(0, "(loss).loss", elements=1)
    for layer in "abcd":
        made.check(0, f"{layer}.gradient", nans=int(layer in "ab"), phase="optimizer", operation="weight")
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert "The first that is not finite is b.weight.gradient at step 0" in text
    assert (
        "made between (loss) (finite) and the optimizer's step, before which all gradients are read together "
        "gradients of c.* and of 1 module before it are finite, b's is the first in backward's order that is not: look "
        "between them 2 of 4 gradients are not finite"
    ) in text


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        (
            "a.gradient",
            {"phase": "optimizer", "operation": "weight"},
            "gradient, read before optimizer.step(), in bf16",
        ),
        (
            "a.parameter",
            {"phase": "optimizer", "operation": "weight"},
            "parameter, read after optimizer.step(), in bf16",
        ),
        ("(loss).loss", {"operation": "backward"}, "loss, read when backward() was called, in bf16"),
        ("a.output", {"operation": "Linear"}, "output of Linear, read after its forward, in bf16"),
        ("a.output", {"operation": "", "phase": ""}, "output of a module, read after its forward, in bf16"),
        (
            "fc1.grad_output",
            {"phase": "backward", "operation": "quantize"},
            "grad_output, read in backward by quantize",
        ),
        ("a.input", {"phase": "", "operation": ""}, "input, read in an unknown phase, in bf16"),
    ],
)
def test_what_a_tensor_is_in_words(tmp_path: Path, name: str, columns: dict[str, str], says: str) -> None:
    store.write(Made().check(0, name, nans=1, dtype="bf16", **columns).trace(), tmp_path / "run.tetrace")
    assert says in said("nan", tmp_path / "run.tetrace")


def test_a_parameter_that_was_read_before_and_after_a_forward(tmp_path: Path) -> None:
    made = Made().check(0, "a.parameter", phase="optimizer", operation="weight", amax=0.18)
    made.check(1, "a.output", nans=1, operation="Linear")
    made.check(1, "a.parameter", phase="optimizer", operation="weight", nans=64)
    made.check(1, "a.parameter", phase="optimizer", operation="bias", nans=8, elements=8)
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert (
        "its a.weight.parameter: finite, amax 0.18, when last read before this forward, after step 0; 64 NaN of 64 "
        "elements when read after it, at the end of its step"
    ) in text
    assert "its a.bias.parameter: not read before this forward; 8 NaN of 8 elements when read after it" in text


def test_nan_that_a_rank_may_have_received(tmp_path: Path) -> None:
    made = Made().tensor(7, "a.input", [1.0]).tensor(7, "k.input", [np.nan], process=1)
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert (
        "made before the first observation on rank 1 rank 1 may have received it from rank 0, which holds other modules: "
        "it is the first that rank 1 reads in forward 1 tensor in all "
        "Look at what rank 0 computes last, and what is sent from there."
    ) in text
    assert "the start of the recording" not in text
    health = " ".join(said("health", tmp_path / "run.tetrace").split())
    assert "maybe received from rank 0" in health


def test_nan_in_a_compiled_module(tmp_path: Path) -> None:
    made = Made().site("compiled", name="(compiled: M)", module="(compiled: M)").check(0, "M.output", nans=1)
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert "! M is compiled: what is inside it was not observed; record once without torch.compile" in text


def test_all_is_finite_as_far_as_inspection_went(tmp_path: Path) -> None:
    notice = "FP8 inspection switched itself off in step 2 (RuntimeError: sparse); training goes on"
    trace = Made().check(0, "a.output").check(1, "a.output").trace()
    for name, notices in (("whole", ()), ("off", (notice,))):
        metadata = dataclasses.replace(trace.metadata, notices=notices)
        store.write(dataclasses.replace(trace, metadata=metadata), tmp_path / f"{name}.tetrace")
    verdict = "Finite as far as inspection went: it switched itself off in step 2; no NaN and no Inf in 2 observations"
    assert verdict in " ".join(said("nan", tmp_path / "off.tetrace").split())
    found = json.loads(printed("nan", tmp_path / "off.tetrace", "--json"))
    assert found["verdict"].startswith(verdict)
    assert found["switched_off"] == 2
    assert json.loads(printed("nan", tmp_path / "whole.tetrace", "--json"))["switched_off"] is None


def test_a_gradient_whose_place_in_backward_is_not_known(tmp_path: Path) -> None:
    made = Made().check(0, "(loss).loss", elements=1)
    for layer in "abc":
        made.check(0, f"{layer}.gradient", nans=int(layer != "c"), phase="optimizer", operation="weight")
    store.write(made.trace(), tmp_path / "run.tetrace")
    text = " ".join(said("nan", tmp_path / "run.tetrace").split())
    assert (
        "where backward made b's is not known: of those that are not finite it is the last in parameters' order" in text
    )
    assert "backward's order" not in text


def test_whatif_without_histograms(tmp_path: Path) -> None:
    store.write(Made().check(0, "a.output").trace(), tmp_path / "run.tetrace")
    assert (
        "run.tetrace: nothing that was looked at was quantized to FP8"
        in failure("fp8", "whatif", tmp_path / "run.tetrace", "margin=1")[1]
    )
