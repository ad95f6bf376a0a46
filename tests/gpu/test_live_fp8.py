"""`tetrace record --fp8` of real Transformer Engine: every cast has its row, numbers are right, and nothing changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tetrace

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parent / "fp8_training.py"
LAYERS, STEPS = 4, 10
LINEARS = ("self_attention.layernorm_qkv", "self_attention.proj", "layernorm_mlp")
RECIPES = ("none", "delayed", "current", "block")


def run(folder: Path, recipe: str, *, fp8: tuple[str, ...] | None = (), fault: str = "") -> tuple[str, Any]:
    """What the script printed, and the recording of it; None without `fp8`."""
    script = [str(SCRIPT), "--recipe", recipe, *(["--fault", fault] if fault else [])]
    begin = [sys.executable]
    if fp8 is not None:
        options = ["--collector", "host", "--steps", "all", "-o", str(folder / "run"), "--fp8", *fp8]
        begin = [sys.executable, "-m", "tetrace", "record", *options, "--"]
    done = subprocess.run([*begin, *script], capture_output=True, text=True, cwd=folder, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, None if fp8 is None else tetrace.load(folder / "run.tetrace")


def frame(trace: Any, table: str = "fp8_tensors") -> Any:
    return trace.tables[table].to_pandas()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, Any]]:
    """(printed without tetrace, printed under it, recording) by recipe."""
    made = {}
    for recipe in RECIPES:
        plain, _ = run(tmp_path_factory.mktemp("plain"), recipe, fp8=None)
        made[recipe] = (plain, *run(tmp_path_factory.mktemp("recorded"), recipe))
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_bits_with_and_without(recipe: str, recordings: dict[str, tuple[str, str, Any]]) -> None:
    plain, printed, trace = recordings[recipe]
    assert printed == plain
    assert not [notice for notice in trace.metadata.notices if "FP8 inspection" in notice]


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_every_quantize_call_of_a_step_has_its_row(recipe: str, recordings: dict[str, tuple[str, str, Any]]) -> None:
    """As many rows as the ranges of quantize calls with a role that the instrumentation opened around them."""
    trace = recordings[recipe][2]
    rows = frame(trace)
    rows = rows[rows["source"] != "check"]
    assert set(rows["step"]) == set(range(STEPS))
    per_step = rows.groupby("step").size()
    assert per_step.nunique() == 1, per_step
    sites, ranges = frame(trace, "sites"), frame(trace, "ranges")
    is_cast = (sites["kind"] == "quantize") & (sites["role"] != "") & ~sites["name"].str.startswith("fp8_transpose")
    quantize = set(sites.index[is_cast])
    calls = ranges[ranges["site"].isin(quantize) & (ranges["sequence"] == 5)]
    assert len(calls) == per_step.iloc[0]
    for layer in range(LAYERS):
        for linear in LINEARS:
            own = rows[(rows["module"] == f"layers.{layer}.{linear}") & (rows["step"] == 5)]
            roles = {role.rpartition(".")[2] for role in own["role"]}
            assert {"input", "weight", "grad_output"} <= roles, (layer, linear, own["role"].tolist())
    assert {"fc1.input", "fc2.input", "fc1.weight", "fc2.weight", "fc2.grad_output"} <= set(rows["role"])
    assert set(rows["scaling"]) == {recipe}
    assert (rows["elements"] > 0).all()
    assert (rows["nans"] == 0).all()
    assert (rows["infs"] == 0).all()


def test_scales_are_those_in_use(recordings: dict[str, tuple[str, str, Any]]) -> None:
    largest = {"E4M3": 448.0, "E5M2": 57344.0}
    current = frame(recordings["current"][2])
    current = current[current["source"] == "input"]
    expected = current["format"].map(largest).astype(float)
    np.testing.assert_allclose(current["scale"] * current["amax"], expected, rtol=1e-5)
    # A scale that was rounded up puts the largest values, of which bf16 makes several the same, a bit above.
    assert (current["saturated"] <= 1e-4 * current["elements"]).all()
    blocks = frame(recordings["block"][2])
    blocks = blocks[blocks["source"] == "input"]
    assert (blocks["scale_min"] <= blocks["scale_max"]).all()
    assert (np.log2(blocks["scale_min"]) % 1 == 0).all(), "powers of two unless told otherwise"
    assert (blocks["scale_max"] * blocks["amax"] >= 224).all()


def test_delayed_scaling_uses_what_its_history_says(recordings: dict[str, tuple[str, str, Any]]) -> None:
    trace = recordings["delayed"][2]
    rows, scales = frame(trace), frame(trace, "fp8_scales")
    assert set(scales["step"]) == set(range(STEPS))
    assert set(scales["direction"]) == {"forward", "backward"}
    inputs = rows[(rows["source"] == "input") & (rows["phase"] == "forward")]
    joined = inputs.merge(
        scales[scales["direction"] == "forward"], on=["step", "module", "role"], suffixes=("", "_update")
    )
    assert len(joined) > 2 * LAYERS * STEPS
    np.testing.assert_array_equal(joined["scale"], joined["scale_update"])
    np.testing.assert_array_equal(joined["amax"], joined["amax_update"])
    following = scales.assign(step=scales["step"] + 1).merge(scales, on=["step", "module", "role", "direction"])
    np.testing.assert_array_equal(following["next_scale_x"], following["scale_y"])


def test_casts_inside_of_norms_and_activations_show_codes(recordings: dict[str, tuple[str, str, Any]]) -> None:
    trace = recordings["delayed"][2]
    rows, scales = frame(trace), frame(trace, "fp8_scales")
    fused = rows[rows["source"] == "quantized"]
    assert "layernorm_fwd" in set(fused["operation"])
    joined = fused.merge(scales, on=["step", "module", "role"], suffixes=("", "_update"))
    assert len(joined) == len(fused)
    np.testing.assert_allclose(joined["scale"], joined["scale_update"], rtol=1e-6)
    assert fused["squared_error"].isna().all()
    assert (fused["amax"] > 0).all()


def test_what_is_cast_inside_is_made_again_on_request(
    recordings: dict[str, tuple[str, str, Any]], tmp_path: Path
) -> None:
    """In every third step: its amax is the one that Transformer Engine found, within the rounding of the script's numbers."""
    plain, _, before = recordings["delayed"]
    printed, trace = run(tmp_path, "delayed", fp8=("--fp8-recompute", "3"))
    assert printed == plain
    rows, codes = frame(trace), frame(before)
    key = ["step", "module", "role", "phase"]
    again, fused = rows[rows["source"] == "recomputed"], codes[codes["source"] == "quantized"]
    (offset,) = {step % 3 for step in again["step"]}
    of_these_steps = fused["step"] % 3 == offset
    assert sorted(again[key].itertuples(index=False)) == sorted(fused[of_these_steps][key].itertuples(index=False))
    left = rows[rows["source"] == "quantized"]
    assert sorted(left[key].itertuples(index=False)) == sorted(fused[~of_these_steps][key].itertuples(index=False))
    assert {"layernorm_fwd"} < set(again["operation"])
    assert again["squared_error"].notna().all()
    joined = again.merge(frame(trace, "fp8_scales"), on=["step", "module", "role"], suffixes=("", "_update"))
    assert len(joined) == len(again)
    np.testing.assert_allclose(joined["amax"], joined["amax_update"], rtol=2.0**-8)
    np.testing.assert_allclose(joined["scale"], joined["scale_update"], rtol=1e-6)


def test_histograms_hold_every_value(recordings: dict[str, tuple[str, str, Any]]) -> None:
    trace = recordings["current"][2]
    rows, bins = frame(trace), frame(trace, "fp8_histograms")
    rows = rows[rows["source"] == "input"].set_index("order")
    counted = bins.groupby("order")["count"].sum()
    expected = rows["elements"] - rows["zeros"] - rows["nans"] - rows["infs"]
    assert (counted.reindex(expected.index).fillna(0) == expected).all()


def test_what_is_not_finite_is_looked_for_everywhere(recordings: dict[str, tuple[str, str, Any]]) -> None:
    rows = frame(recordings["none"][2])
    assert set(rows["source"]) == {"check"}
    assert {"output", "loss", "gradient", "parameter"} == set(rows["role"])
    assert rows.groupby("step").size().nunique() == 1


@pytest.mark.parametrize("recipe", ["delayed", "current", "block"])
def test_an_inf_is_first_seen_where_it_was_put(recipe: str, tmp_path: Path) -> None:
    """In what layer 2 is given, which its first norm reads: of a row with an Inf all that it gives to the QKV linear is NaN."""
    _, trace = run(tmp_path, recipe, fault="inf")
    rows = frame(trace)
    first = rows[(rows["nans"] > 0) | (rows["infs"] > 0)].iloc[0]
    planted = (7, "layers.2.self_attention.layernorm_qkv", "input")
    assert (first["step"], first["module"], first["role"]) == planted
    named = tetrace.fp8.find_nonfinite(trace).origins[0].tensor
    assert (named.step, named.module, named.role) == planted


def test_a_scale_that_is_one_again_is_seen(tmp_path: Path) -> None:
    _, trace = run(tmp_path, "delayed", fault="scale")
    scales = frame(trace, "fp8_scales")
    own = scales[(scales["module"] == "layers.2.layernorm_mlp") & (scales["role"] == "fc1.weight")].set_index("step")
    assert own.loc[7, "scale"] == 1.0
    assert own.loc[6, "scale"] != 1.0
    assert own.loc[6, "next_scale"] != 1.0
    changed = [one for one in tetrace.fp8.check_health(trace).problems if one.kind == "scale_changed"]
    assert ("layers.2.layernorm_mlp.fc1.weight", 7) in [(one.name, one.first_step) for one in changed]


def test_a_weight_that_is_much_larger_is_seen(tmp_path: Path) -> None:
    _, trace = run(tmp_path, "delayed", fault="weight")
    rows = frame(trace)
    mlp = rows[(rows["module"] == "layers.2.layernorm_mlp") & (rows["source"] != "check")]
    own = mlp[mlp["role"] == "fc2.weight"]
    seen = rows.groupby(["module", "source"])["step"].agg(["min", "max", "size"]).to_string()
    assert sorted(own["step"]) == list(range(STEPS)), "\n".join([*trace.metadata.notices, seen])
    own = own.set_index("step")
    assert own.loc[5, "amax"] > 1e5 * own.loc[4, "amax"]
    assert own.loc[5, "saturated"] > 0.5 * own.loc[5, "elements"]
    clipped = [one for one in tetrace.fp8.check_health(trace).problems if one.kind == "saturation"]
    assert ("layers.2.layernorm_mlp.fc2.weight", 5) in [(one.name, one.first_step) for one in clipped]


def test_blocks_and_every_second_step(tmp_path: Path) -> None:
    _, trace = run(tmp_path, "current", fp8=("--fp8-blocks", "--fp8-every", "2", "--fp8-modules", r"layers\.1\."))
    rows, blocks = frame(trace), frame(trace, "fp8_blocks")
    assert set(rows["step"]) == {0, 2, 4, 6, 8}
    assert {module for module in rows["module"] if module != "(loss)"} == {
        module for module in rows["module"] if module.startswith("layers.1.")
    }
    counted = blocks[blocks["layout"] == "1x128"].groupby("order")["count"].sum()
    inputs = rows[rows["source"] == "input"].set_index("order")
    sizes = inputs["shape"].str.split("x", expand=True).astype(int)
    assert (counted.reindex(inputs.index) == sizes[0] * -(-sizes[1] // 128)).all()
