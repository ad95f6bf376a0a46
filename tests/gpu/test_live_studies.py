"""The studies under profiles/ on a GPU, small: each kind of configuration builds and trains, through `tetrace study`.

Needs a GPU and Transformer Engine; the rows of FlashAttention need that too, and fail as expected without it.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

import tetrace
from tests.study import te_on_cpu
from tetrace.study import results, spec

pytestmark = pytest.mark.gpu

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
# What of each study, and how small.
SMALL = {
    "fusion": (
        [
            "fused-none",
            "fused-hybrid",
            "fused-block",
            "unfused-hybrid",
            "architecture:all",
            "graphs:fused-*",
            "fp32:*-e4m3",
        ],
        {"layers": 1, "batch": 2, "seq": 128},
    ),
    "hybrid": (
        ["delayed-*", "current-hybrid", "avoid:hybrid_current", "avoid:torch"],
        {"layers": 2, "batch": 1, "seq": 256},
    ),
    "attention": (
        ["vanilla-*", "te-fused", "te-flash", "te-unfused", "te_fp8-fused", "te_block-unfused"],
        {"hidden": 512, "ffn": 2048, "heads": 4, "batch": 4, "seq": 256},
    ),
    "gated": (
        ["small-*", "norm:hybrid", "accumulation:4-*"],
        {"layers": 1, "hidden": 256, "ffn": 512, "heads": 4, "vocabulary": 1024},
    ),
    "stability": (
        [
            "custom-e4m3-0",
            "custom-block-0",
            "transformer_layer-e4m3-1",
            "fused-hybrid-2",
            "vocabulary:50264-custom-*-0",
            "vocabulary:50288-custom-block-0",
        ],
        {"layers": 1, "batch": 2, "seq": 128},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    if find_spec("transformer_engine") is None:
        pytest.skip("transformer_engine is not installed")


def run(folder: Path, name: str, only: Sequence[str], *more: str) -> results.Results:
    """The results of some configurations of a study, small, two rounds."""
    arguments = [word for pattern in only for word in ("--only", pattern)]
    arguments += [word for key, value in SMALL[name][1].items() for word in ("--option", f"{key}={value}")]
    command = [sys.executable, "-m", "tetrace", "study", str(PROFILES / name), "--repeat", "2", "--output", str(folder)]
    # Elsewhere than in the checkout, whose tetrace may lack its extension.
    done = subprocess.run(
        [*command, *arguments, *more], capture_output=True, text=True, cwd=folder, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return results.read(folder)


@pytest.mark.parametrize("name", SMALL)
def test_each_kind_of_configuration_trains(name: str, tmp_path: Path) -> None:
    only = SMALL[name][0]
    chosen = {planned.name: planned for planned in spec.read(PROFILES / name).chosen(only)}
    done = run(tmp_path, name, only, "--no-recordings").configurations
    found = {one.name: one for one in done if one.name in chosen}
    assert set(found) == set(chosen)
    for one in found.values():
        if chosen[one.name].expects is not None and (one.state == "failed" or "50264" in one.name):
            assert one.expected, f"{one.name}: {one.state}, {one.error}"
            continue
        assert one.state == "measured", f"{one.name}: {one.error}"
        assert one.flops
        assert one.losses.by_step
        assert one.losses.first_nonfinite_step is None, one.name
        assert one.peak_allocated_bytes


def test_a_study_is_recorded_and_explained(tmp_path: Path) -> None:
    names = ("fused-none", "fused-hybrid")
    run(tmp_path, "fusion", names)
    for name in names:
        totals = tetrace.analyze(tetrace.load(tmp_path / f"{name}.tetrace")).totals
        assert totals.activity_ns
        assert totals.unattributed_module_ns <= 0.05 * totals.activity_ns
    assert "fused-hybrid" in (tmp_path / "REPORT.md").read_text()


def test_stand_ins_take_what_transformer_engine_takes() -> None:
    """The arguments that the CPU's stand-ins have are Transformer Engine's, with its defaults."""
    import transformer_engine.pytorch as te
    from transformer_engine.pytorch.attention.rope import apply_rotary_pos_emb

    def compare(stand_in: object, theirs: object) -> None:
        known = inspect.signature(theirs).parameters
        for name, parameter in inspect.signature(stand_in).parameters.items():
            assert name in known or "kwargs" in known, (stand_in, name)
            if name in known and parameter.default is not inspect.Parameter.empty:
                assert parameter.default == known[name].default, (stand_in, name)

    for stand_in in te_on_cpu.MODULES["transformer_engine.pytorch"]:
        theirs = getattr(te, stand_in.__name__)
        if inspect.isfunction(stand_in):
            compare(stand_in, theirs)
            continue
        compare(stand_in.__init__, theirs.__init__)
        if stand_in.__name__ not in ("autocast", "LayerNorm", "RMSNorm"):
            compare(stand_in.forward, theirs.forward)
    compare(te_on_cpu.apply_rotary_pos_emb, apply_rotary_pos_emb)
