"""The terminal report: whole outputs of small runs, and the size of the first screen of real ones."""

from __future__ import annotations

import dataclasses
import re

import pytest

import tetrace
from tests.report.runs import DATA, breakdown_of, recorded, rendered, three_steps
from tests.traces import Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import break_down
from tetrace.errors import UsageError
from tetrace.report.content import held_back, steps_used
from tetrace.report.scale import scale_of
from tetrace.report.views import BY_NAME, VIEWS
from tetrace.sources.detect import load
from tetrace.trace.trace import Trace

PROFILES = "../../profiles"
LAYERS = f"{PROFILES}/layer_stack/results/nvidia-h200/fp8-delayed.tetrace"
STRAGGLER = f"{PROFILES}/ddp/results/nvidia-h200-x2/fp8-straggler.tetrace"
UNFUSED = f"{PROFILES}/attention/results/h200/te-unfused.tetrace"
FIRST_SCREEN = """\
made · test · NVIDIA H200 · pid 1
steps 0–1 (2 of 3), marked by step ranges; left out: 2 (last, its end was not recorded)

VERDICT

Time                  ms/step  of wall
wall                    0.200   100.0%  mean of 2 steps; median 0.200, 0.200 to 0.200
busy                    0.028    14.0%  █████▌
idle, host-bound        0.152    76.0%  ██████████████████████████████▌
idle, launch latency    0.015     7.5%  ███
idle, unexplained       0.005     2.5%  █ what follows was launched already

GPU activity (summed over streams), ms per step; phase 100.0% known, module 89.3%
category      forward  backward  optimizer    all  of activity
optimizer           ·         ·      0.015  0.015        53.6%
gemm            0.003     0.004          ·  0.007        25.0%
quantization    0.002     0.001          ·  0.003        10.7%
elementwise         ·     0.003          ·  0.003        10.7%
all             0.005     0.008      0.015  0.028       100.0%

quantization  3.00 µs on the GPU per step = 10.7% of GPU activity; none is fused
              1 weight cast per step
              GPU idle while the host quantizes: 3.50 µs = 1.8% of wall
FP8 coverage  100.0% of GEMM time, 7.00 µs per step: E4M3 100.0%
launches      8 calls for 8 activities per step; median queue 0 deep
              host time in calls 6.00 µs | latency 2.00 µs (p95 5.00 µs) | host-bound idle 152 µs

ms/step  of wall  gaps  host ranges the GPU waits for
  0.050    25.0%     1  the step's own range (forward)
  0.045    22.5%     2  no range, in backward
  0.020    10.0%     ·  optimizer
  0.019     9.5%     1  backward
  0.005     2.5%     ·  forward
  0.013     6.5%     4  11 others; all 0.152: idle, host-bound

FINDINGS
"""


def without_wording(text: str) -> str:
    """The report with what breakdown/findings.py words, and its own tests check, left out."""
    text = re.sub(r"\n\n(?:Launch|GPU|Mostly).*?\n\n", "\n\nVERDICT\n\n", text, count=1, flags=re.DOTALL)
    return re.sub(r"\nFindings, worst first\n.*", "\nFINDINGS\n", text, flags=re.DOTALL)


def test_first_screen_of_a_small_run() -> None:
    assert without_wording(rendered(breakdown_of(three_steps()))) == FIRST_SCREEN


def test_host_ranges_that_are_not_shown_have_a_row_and_all_add_up() -> None:
    breakdown = breakdown_of(three_steps())
    scale = scale_of(breakdown)
    assert [row[3] for row in held_back(breakdown, scale, 2).rows] == [
        "the step's own range (forward)",
        "no range, in backward",
        f"{len(held_back(breakdown, scale, 100).rows) - 2} others; all 0.152: idle, host-bound",
    ]
    for rows in range(1, 8):
        cells = held_back(breakdown, scale, rows).rows
        assert sum(float(row[0]) for row in cells) == pytest.approx(0.152, abs=0.002), rows


def test_a_notice_of_two_cudnns_says_what_it_means() -> None:
    trace = three_steps().trace()
    metadata = dataclasses.replace(trace.metadata, notices=("2 copies of cuDNN are loaded, from a and b",))
    breakdown = break_down(attribute(Trace(metadata, trace.tables)))
    assert "\n! 2 copies of cuDNN are loaded, from a and b: may break TE; keep one\n" in rendered(breakdown)


def test_left_out_steps_are_told_by_the_reason_that_is_shown() -> None:
    brief = rendered(recorded(LAYERS), width=100).splitlines()[1]
    assert brief == "steps 6–12 (7 of 14), marked by step ranges; left out: 0–5 (warm-up), 13 (last)"


def test_steps_of_several_ranks_are_counted_as_the_mean_counts_them() -> None:
    lines = rendered(recorded(STRAGGLER), width=100).splitlines()
    assert lines[1] == "9 steps of 2 ranks: 3–7, 3–6 of 0–8, marked by step ranges; left out: 0–2 (warm-up), 8 (last)"
    assert any("mean of 9 steps;" in line for line in lines)
    same = load(DATA / STRAGGLER)
    assert steps_used(tetrace.analyze(same, steps="4:6")).startswith("4 steps of 2 ranks: each 4–5 of 0–8, ")
    assert steps_used(tetrace.analyze(same, steps="4:6", process=0)).startswith("steps 4–5 (2 of 9), ")


def test_a_finding_keeps_its_advice_on_one_line() -> None:
    (line,) = [line for line in rendered(recorded(STRAGGLER), width=100).splitlines() if "host to launch" in line]
    assert line == "12.2 ms  the GPU waits for the host to launch: CUDA graphs, or a larger batch"


def test_attention_backends_are_not_cut() -> None:
    lines = rendered(recorded(UNFUSED), by="backend", width=100).splitlines()
    assert lines[-3:] == [
        "module                         backend                     refused",
        "self_attention.core_attention  UnfusedDotProductAttention  FlashAttention 4: NV…n: NVTE_FUSED_ATTN=0",
        "3 columns left out: --wide shows all",
    ]


@pytest.mark.parametrize("by", [view.name for view in VIEWS if view.whole])
def test_the_sum_of_a_table_is_called_all(by: str) -> None:
    if len(recorded("stability-bf16.tetrace").tables[BY_NAME[by].table]) > 1:
        lines = rendered(recorded("stability-bf16.tetrace"), by=by, width=100).splitlines()
        assert any(re.search(r"(^| )all( |$)", line) for line in lines[-2:]), lines[-2:]


def test_modules() -> None:
    assert (
        rendered(breakdown_of(three_steps()), by="module")
        == """\
made · test · NVIDIA H200 · pid 1
steps 0–1 (2 of 3), marked by step ranges; left out: 2 (last, its end was not recorded)

Modules, ms and counts per step
module        ms/step  of activity  forward  backward   gemm  quantize  launches  host-bound
(optimizer)     0.015        53.6%    0.000     0.000  0.000     0.000         1       0.020
Linear.0        0.010        35.7%    0.005     0.005  0.007     0.003         6       0.013
unattributed    0.003        10.7%    0.000     0.003  0.000     0.000         1       0.119
all             0.028       100.0%    0.005     0.008  0.007     0.003         8       0.152
1 column left out: --wide shows all
"""
    )


def test_kernels_by_regular_expression() -> None:
    assert (
        rendered(breakdown_of(three_steps()), kernel="e4m3|nvjet").partition("\n\n")[2]
        == """\
2 of 5 kernels match e4m3|nvjet, ms and counts per step
ms/step  of activity  count  mean µs  min µs  max µs  kernel
  0.007        25.0%      3      2.3     2.0     3.0  nvjet_sm90_qqtst_256x1…28x4_1x2_h_bz_coopA_TNT
  0.004        14.3%      2      2.0     2.0     2.0    backward  Linear.0
  0.003        10.7%      1      3.0     3.0     3.0    forward  Linear.0
  0.002         7.1%      2      1.0     1.0     1.0  cast_transpose_optimized_kernel
  0.002         7.1%      2      1.0     1.0     1.0    forward  Linear.0
  0.009        32.1%      5      1.8     1.0     3.0  all that match
"""
    )


@pytest.mark.parametrize(
    ("pattern", "says"), [("nvjet(", "not a regular expression"), ("zzz", "none of the 5 kernels")]
)
def test_a_bad_pattern_is_refused_with_its_value(pattern: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--kernel {pattern}: ") + f".*{says}"):
        rendered(breakdown_of(three_steps()), kernel=pattern)


def test_what_was_not_captured_is_said_and_not_zero() -> None:
    recording = three_steps(ranges=False)
    recording.calls.clear()
    text = rendered(breakdown_of(recording, "all"))
    assert "! API calls were not captured: launch costs and the causes of idle time are not known\n" in text
    assert "! host ranges were not captured" in text
    assert "launches      API calls not captured\n" in text
    assert "GPU idle while the host quantizes: not captured\n" in text
    assert "host ranges the GPU waits for" not in text


def test_a_run_without_gpu_activity_says_what_it_holds() -> None:
    recording = Recording().range("step_0", 0, 100).call("cudaLaunchKernel", 1, 2)
    text = rendered(breakdown_of(recording))
    assert "captured: 1 row of processes, 1 row of threads, 1 row of devices, 1 row of calls, 1 row of ranges\n" in text
    assert "not captured: activities, synchronizations, overheads, graph_nodes\n" in text
    assert "0.0" not in text


def test_names_cannot_write_to_the_terminal() -> None:
    recording = Recording().range("loss\x1b[31m\n|x", 0, 50).launch("k\tern\x07el", call=(20, 22), runs=(25, 30))
    recording.launch("b", call=(40, 42), runs=(45, 50))
    breakdown = breakdown_of(recording, "all")
    for text in (rendered(breakdown), rendered(breakdown, by="kernel"), rendered(breakdown, by="host", wide=True)):
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("name", ["te4-fp8.sqlite", "te4-bf16.sqlite"])
def test_the_first_screen_fits(name: str, width: int) -> None:
    lines = rendered(recorded(name), width=width).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= width


STRAGGLER = "../../profiles/ddp/results/nvidia-h200-x2/fp8-straggler.tetrace"


@pytest.mark.parametrize("name", [STRAGGLER, "ddp-straggler.sqlite", "stability-e4m3.tetrace", "graphs-node.sqlite"])
def test_a_crowded_first_screen_fits(name: str) -> None:
    assert len(rendered(recorded(name), width=100).splitlines()) <= 45


def test_a_crowded_screen_leaves_out_what_is_least_telling() -> None:
    text, full = (rendered(recorded(STRAGGLER), width=100, full=full) for full in (False, True))
    kept = [
        "\nHeld back by one rank: rank 1 ",
        "\nidle, host-bound ",
        "GPU idle while the host quantizes: ",
        "amax all-reduce 2×",
    ]
    assert [words in text for words in kept] == [True] * len(kept)
    assert len(re.findall(r"(?m)^ *[\d.]+ [mµ]s  ", text.partition("Findings, worst first")[2])) == 4
    left_out = ("host time in calls", "selected FusedAttention")
    assert [(words in text, words in full) for words in left_out] == [(False, True)] * 2


@pytest.mark.parametrize("by", [view.name for view in VIEWS])
def test_every_table_fits_the_width(by: str) -> None:
    for name in ("te4-fp8.sqlite", "te4-bf16.sqlite"):
        assert max(map(len, rendered(recorded(name), by=by, width=100).splitlines())) <= 100


def test_the_fp8_run_says_what_holds_it_back() -> None:
    text = rendered(recorded("te4-fp8.sqlite"))
    assert re.search(r"^Launch-bound: the GPU works 3\.1\d ms of a step of 18\.\d ms", text, re.MULTILINE)
    assert "the recorder slows the host" in " ".join(text.partition("Time ")[0].split())
    assert re.search(r"^FP8 coverage +100\.0% of GEMM time", text, re.MULTILINE)
    assert "scale updates (2×)" in text
    assert "16 weight casts per step" in text
    assert "summed over streams" in text


def test_with_full_no_name_is_cut() -> None:
    breakdown = recorded("te4-fp8.sqlite")
    text = rendered(breakdown, full=True, top=0)
    assert all(name in text for name in breakdown.tables["kernels"]["name"])
    assert all(name in text for name in breakdown.tables["modules"]["module"])


def test_colour_changes_no_text() -> None:
    breakdown = recorded("te4-fp8.sqlite")
    plain, colored = rendered(breakdown), rendered(breakdown, color=True)
    assert "\x1b[" in colored
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()
