"""Checkpoints made by torch: every container and layout of Transformer Engine gives the same states, and faults are named."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp

from tests.fp8.checkpoints import (
    DelayedScaling,
    Format,
    as_bytes_io,
    as_tensor,
    delayed,
    linear,
    recipes,
    save_safetensors,
    state_dict,
)
from tetrace.errors import InputError
from tetrace.fp8.checkpoint import Checkpoint, ModuleState, read_checkpoint

# tensor, format, scale, newest, largest, updates in the history that were used
LINEAR = [
    ("input", "E4M3", 112.0, 2.0, 4.0, 2),
    ("weight", "E4M3", 896.0, 0.5, 0.5, 2),
    ("output", "E4M3", 1.0, 0.0, 0.0, 0),
    ("grad_output", "E5M2", 229376.0, 0.25, 0.25, 2),
    ("grad_input", "E5M2", 1.0, 0.0, 0.0, 0),
]


def numbers(module: ModuleState) -> list[tuple[Any, ...]]:
    return [(t.tensor, t.format, t.scale, t.newest, t.history_max, t.history_used) for t in module.tensors]


def flags(found: Checkpoint) -> list[tuple[str, str, str]]:
    """(module, tensor, flag) of everything that is wrong."""
    modules = [(module.module, "", flag) for module in found.modules for flag in module.flags]
    return modules + [(m.module, t.tensor, flag) for m in found.modules for t in m.tensors for flag in t.flags]


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def one(state: Any, path: Path, **others: Any) -> Checkpoint:
    """A checkpoint of one linear with this state."""
    return read_checkpoint(saved({"proj.weight": torch.zeros(2, 2), "proj._extra_state": state, **others}, path))


def test_torch_save(tmp_path: Path) -> None:
    found = read_checkpoint(saved({"model": state_dict(), "step": 3, "lr": [0.1]}, tmp_path / "a.pt"))
    assert (found.container, found.parameters) == ("torch.save", 3)
    assert [(m.module, m.kind, m.status, m.recipe) for m in found.modules] == [
        ("layers.0.proj", "Linear", "DelayedScaling", "DelayedScaling"),
        ("layers.1.proj", "Linear", "DelayedScaling", "DelayedScaling"),
        ("layers.0.core_attention", "DotProductAttention", "empty", ""),
    ]
    assert numbers(found.modules[0]) == LINEAR
    assert found.modules[0].fields["format"] == "HYBRID"
    assert found.modules[0].fields["amax_history_len"] == 16
    assert flags(found) == []


@pytest.mark.parametrize("container", ["safetensors", "dcp", "old"])
def test_every_container_says_the_same(container: str, tmp_path: Path) -> None:
    expected = read_checkpoint(saved(state_dict(), tmp_path / "a.pt")).modules
    path = tmp_path / container
    if container == "safetensors":
        save_safetensors(state_dict(), path)
    elif container == "dcp":
        with pytest.warns(UserWarning, match="torch.distributed"):
            dcp.save(state_dict(), checkpoint_id=path, no_dist=True)
    else:
        saved({**state_dict(), **{f"layers.{i}.proj._extra_state": as_bytes_io(linear()) for i in range(2)}}, path)
    found = read_checkpoint(path).modules
    key = lambda module: module.module  # noqa: E731
    assert sorted(found, key=key) == sorted(expected, key=key)


def test_states_of_other_objects_in_a_folder(tmp_path: Path) -> None:
    """As Megatron saves them: one object a shard, which is bytes of torch.save."""
    with pytest.warns(UserWarning, match="torch.distributed"):
        dcp.save({"decoder.proj._extra_state/shard_0_2": as_bytes_io(linear())}, checkpoint_id=tmp_path, no_dist=True)
    (module,) = read_checkpoint(tmp_path).modules
    assert (module.module, numbers(module)) == ("decoder.proj/shard_0_2", LINEAR)


def test_a_shard_that_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="torch.distributed"):
        dcp.save(state_dict(), checkpoint_id=tmp_path, no_dist=True)
    (tmp_path / "__0_0.distcp").unlink()
    with pytest.raises(InputError, match=r"its file __0_0\.distcp is missing; copy it there") as raised:
        read_checkpoint(tmp_path)
    assert "no such file" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_state_of_transformer_engine_1_has_no_recipe(tmp_path: Path) -> None:
    state = linear()
    del state["recipe"]
    state["scale_inv_fwd"] = 1 / state["scale_fwd"]
    (module,) = one(as_bytes_io(state), tmp_path / "a.pt").modules
    assert (module.status, module.recipe.split()[0], numbers(module)) == ("DelayedScaling", "DelayedScaling", LINEAR)


def test_operations_have_a_state_a_direction(tmp_path: Path) -> None:
    whole = linear()
    ways = {
        "forward": {"recipe": whole["recipe"], "scale_fwd": whole["scale_fwd"][:2].clone()},
        "backward": {"recipe": whole["recipe"], "scale_bwd": whole["scale_bwd"][:1].clone()},
    }
    ways["forward"]["amax_history_fwd"] = whole["amax_history_fwd"][:, :2].clone()
    ways["backward"]["amax_history_bwd"] = whole["amax_history_bwd"][:, :1].clone()
    for way in ways.values():
        way["extra_fp8_variables"] = {}
    (module,) = one(as_tensor(ways), tmp_path / "a.pt").modules
    assert module.kind == "te.ops"
    assert numbers(module) == [LINEAR[0], LINEAR[1], LINEAR[3]]


@pytest.mark.parametrize(
    ("parameters", "tensors", "names"),
    [
        (
            ("fc1_weight", "fc2_weight", "layer_norm_weight"),
            6,
            "fc1_input fc1_weight fc1_output fc2_input fc2_weight fc2_output",
        ),
        (("weight0", "weight1"), 6, "input0 weight0 output0 input1 weight1 output1"),
        (("layer_norm_weight", "weight"), 3, "input weight output"),
        ((), 9, "  qkv o     s"),
    ],
)
def test_tensors_have_the_names_of_their_module(
    parameters: tuple[str, ...], tensors: int, names: str, tmp_path: Path
) -> None:
    state = delayed(([2.0] * tensors, [1.0] * (tensors * 2 // 3)), ([[224.0] * tensors], [[0.0] * (tensors * 2 // 3)]))
    weights = {f"m.{name}": torch.zeros(2, 2) for name in parameters}
    (module,) = read_checkpoint(saved({**weights, "m._extra_state": as_tensor(state)}, tmp_path / "a.pt")).modules
    assert " ".join(t.tensor for t in module.tensors if t.direction == "forward") == names


def test_attention_with_current_scaling_has_a_state_of_s_and_dp_alone(tmp_path: Path) -> None:
    """DotProductAttention has two recipes then (dot_product_attention.py, `set_meta_tensor`)."""
    state = delayed(([1.0, 1.0, 448.0], [1.0, 57344.0]), ([[0.0, 0.0, 1.0]], [[0.0, 1.0]]))
    name = "m.core_attention._extra_state"
    (module,) = read_checkpoint(saved({name: as_tensor(state)}, tmp_path / "a.pt")).modules
    assert [(one.tensor, one.flags) for one in module.tensors] == [
        ("", ()), ("", ()), ("s", ()), ("", ()), ("dp", ())
    ]  # fmt: skip


@pytest.mark.parametrize(("attention", "flags"), [(False, ("never set",)), (True, ())])
def test_a_linear_that_fp8_attention_gives_its_input_sets_no_scale_of_it(
    attention: bool, flags: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = DelayedScaling(fp8_dpa=attention)
    state = delayed(([1.0, 448.0, 1.0], [57344.0, 1.0]), ([[0.0, 1.0, 0.0]], [[1.0, 0.0]]), recipe)
    held = {"proj.weight": torch.zeros(2, 2), "proj._extra_state": as_tensor(state)}
    (module,) = read_checkpoint(saved(held, tmp_path / "a.pt")).modules
    assert {one.tensor: one.flags for one in module.tensors}["input"] == flags


@pytest.mark.parametrize(
    ("scale", "history", "recipe", "expected"),
    [
        (112.0, [4.0, 2.0], DelayedScaling(), []),
        (1.0, [4.0, 2.0], DelayedScaling(), ["history gives scale 112"]),
        (112.0, [4.0, 2.0], DelayedScaling(margin=1), ["history gives scale 56"]),
        (56.0, [4.0, 2.0], DelayedScaling(margin=1), []),
        (3.0, [4.0, 2.0], DelayedScaling(amax_compute_algo="most_recent"), []),
        (1.0, [0.0, 0.0], DelayedScaling(), ["never set"]),
        (8.0, [0.0, 0.0], DelayedScaling(), ["amax zero throughout"]),
        (8.0, [math.inf, 2.0], DelayedScaling(), ["1 Inf in history: scale frozen"]),
        (8.0, [math.nan, 2.0], DelayedScaling(), ["1 NaN in history"]),
        (math.inf, [4.0, 2.0], DelayedScaling(), ["scale is inf", "history gives scale 112"]),
        (112.0, [4.0, 0.0], DelayedScaling(), ["newest amax is zero"]),
    ],
)
def test_what_is_wrong_with_a_tensor(
    scale: float, history: list[float], recipe: DelayedScaling, expected: list[str], tmp_path: Path
) -> None:
    good = [224.0] * len(history)
    rows = [[mine, other, 0.0] for mine, other in zip(history, good, strict=True)]
    margin = 2.0**-recipe.margin
    state = delayed(([scale, 2.0 * margin, 1.0], [1.0, 1.0]), (rows, [[0.0, 0.0]] * len(history)), recipe)
    found = flags(one(as_tensor(state), tmp_path / "a.pt"))
    assert [flag for module, tensor, flag in found if tensor == "input"] == expected
    assert [flag for _, tensor, flag in found if tensor != "input"] == []


@pytest.mark.parametrize("name", ["E4M3", "HYBRID"])
def test_formats_by_what_any_python_pickles(name: str, tmp_path: Path) -> None:
    """Members of an enum are an attribute of their class (Python 3.11), or the class called with their value (others)."""
    largest = Format[name].value.max_bwd
    assert one(
        as_tensor(delayed(([1.0], [1.0]), ([[0.0]], [[0.0]]), DelayedScaling(fp8_format=Format[name]))), tmp_path / "a"
    )
    with recipes():
        by_value = pickle.dumps(Format[name])
        by_name = b"\x80\x04cbuiltins\ngetattr\n(ctransformer_engine.common.recipe\nFormat\nX" + (
            len(name).to_bytes(4, "little") + name.encode() + b"tR."
        )
        assert pickle.loads(by_name) is pickle.loads(by_value) is Format[name]
    whole = as_tensor(delayed(([1.0], [1.0]), ([[0.0]], [[0.0]]), DelayedScaling(fp8_format=Format[name])))
    held = bytes(whole.numpy())
    for number, member in enumerate((by_value, by_name)):
        state = held_with(held, member)
        (module,) = one(torch.frombuffer(bytearray(state), dtype=torch.uint8), tmp_path / str(number)).modules
        assert module.fields["format"] == name
        assert {t.format for t in module.tensors if t.direction == "backward"} == {"E5M2" if largest > 448 else "E4M3"}


def held_with(state: bytes, member: bytes) -> bytes:
    """A state whose recipe has `member`, the pickle of a format, as its format."""
    with recipes():
        plain = pickle.loads(state)
        plain["recipe"].fp8_format = "HERE"
        pickled = pickle.dumps(plain, protocol=2)
    mark = b"X" + (4).to_bytes(4, "little") + b"HERE"
    assert pickled.count(mark) == 1
    # The same protocol's opcodes in place of the text, which nothing refers to again under another number.
    body = member[2:-1] if member.startswith(b"\x80\x04c") else _of_protocol_2(member)
    return pickled.replace(mark, body)


def _of_protocol_2(member: bytes) -> bytes:
    with recipes():
        return pickletools.optimize(pickle.dumps(pickle.loads(member), protocol=2))[2:-1]


def test_a_module_without_its_state_is_missing(tmp_path: Path) -> None:
    held = state_dict()
    del held["layers.1.proj._extra_state"]
    held |= {"layers.1.mlp.fc1_weight": torch.zeros(2, 2), "layers.1.mlp.fc2_weight": torch.zeros(2, 2)}
    held |= {"head.weight": torch.zeros(2, 2)}
    found = read_checkpoint(saved(held, tmp_path / "a.pt"))
    assert [(m.module, m.kind) for m in found.modules if m.status == "missing"] == [
        ("layers.1.proj", "Linear"),
        ("layers.1.mlp", "LayerNormMLP"),
    ]
    assert {m.module for m in found.flagged} == {"layers.1.proj", "layers.1.mlp"}


def test_a_direction_that_never_ran_is_said_once(tmp_path: Path) -> None:
    state = delayed(([112.0, 896.0, 1.0], [1.0, 1.0]), ([[4.0, 0.5, 0.0]], [[0.0, 0.0]]))
    found = one(as_tensor(state), tmp_path / "a.pt")
    assert (flags(found), found.unused) == ([], ("backward",))
    new = delayed(([1.0] * 3, [1.0] * 2), ([[0.0] * 3], [[0.0] * 2]))
    assert one(as_tensor(new), tmp_path / "b.pt").unused == ("forward", "backward")
    assert one(as_tensor(linear()), tmp_path / "c.pt").unused == ()


def test_a_backward_that_one_module_lacks_is_wrong(tmp_path: Path) -> None:
    state = delayed(([112.0, 896.0, 1.0], [1.0, 1.0]), ([[4.0, 0.5, 0.0]], [[0.0, 0.0]]))
    held = {**state_dict(), "layers.1.proj._extra_state": as_tensor(state)}
    assert flags(read_checkpoint(saved(held, tmp_path / "a.pt"))) == [("layers.1.proj", "grad_output", "never set")]


def test_a_model_in_several_safetensors(tmp_path: Path) -> None:
    held = state_dict()
    for number in range(2):
        part = {name: one for name, one in held.items() if f"layers.{number}" in name}
        save_safetensors(part, tmp_path / f"model-{number}.safetensors")
    found = read_checkpoint(tmp_path)
    assert (len(found.modules), found.parameters, flags(found)) == (3, 3, [])
    cut = tmp_path / "model-1.safetensors"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(
        InputError, match=r"model-1\.safetensors: its head has \d+ bytes of a file of 100: it is cut off"
    ):
        read_checkpoint(tmp_path)


def test_a_large_model_is_read(tmp_path: Path) -> None:
    """500 modules with states, whose storages are found in a directory of 2500 entries."""
    state = as_tensor(linear())
    held: dict[str, Any] = {}
    for number in range(500):
        held |= {f"layers.{number}.{name}": torch.zeros(2, 2) for name in ("weight", "bias", "a", "b")}
        held[f"layers.{number}._extra_state"] = state.clone()
    path = saved(held, tmp_path / "a.pt")
    assert len(read_checkpoint(path).modules) == 500


def test_a_checkpoint_of_a_plain_model_has_no_modules(tmp_path: Path) -> None:
    found = read_checkpoint(saved(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pt"))
    assert (found.modules, found.parameters) == ((), 2)


def test_an_optimizer_beside_the_model(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    held = {"model": {**model.state_dict(), "_extra_state": as_tensor(linear())}, "optimizer": optimizer.state_dict()}
    found = read_checkpoint(saved(held, tmp_path / "a.pt"))
    assert [(m.module, numbers(m)) for m in found.modules] == [("", LINEAR)]


def test_two_models_are_told_apart(tmp_path: Path) -> None:
    found = read_checkpoint(saved({"model": state_dict(), "ema": state_dict()}, tmp_path / "a.pt"))
    assert [m.module for m in found.modules[:1]] == ["model.layers.0.proj"]
    assert len({m.module for m in found.modules}) == 6


def test_shared_and_strided_storages_are_read_where_they_are(tmp_path: Path) -> None:
    state = as_tensor(linear())
    padded = torch.cat([torch.zeros(5, dtype=torch.uint8), state, torch.zeros(3, dtype=torch.uint8)])
    (module,) = one(padded[5 : 5 + len(state)], tmp_path / "a.pt").modules
    assert numbers(module) == LINEAR


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = saved(state_dict(), tmp_path / "a.pt")
    script = f"""
import sys
from tetrace.fp8.checkpoint import read_checkpoint
assert len(read_checkpoint({str(path)!r}).modules) == 3
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "transformer_engine")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (torch.zeros(3), "is a tensor of float32"),
        (torch.frombuffer(bytearray(b"hello"), dtype=torch.uint8), "cut off or damaged"),
        (torch.frombuffer(bytearray(pickle.dumps([1])), dtype=torch.uint8), "is list"),
        (torch.frombuffer(bytearray(pickle.dumps({"other": 1})), dtype=torch.uint8), "has the keys 'other'"),
        (as_tensor({"scale_fwd": torch.ones(3), "amax_history_fwd": torch.ones(2, 4)}), "3 scales"),
        (as_tensor({"scale_fwd": torch.ones(3, 3), "amax_history_fwd": torch.ones(2, 4)}), "of shape [3, 3]"),
        (torch.frombuffer(bytearray(pickle.dumps({})), dtype=torch.uint8), ""),
        (io.BytesIO(), ""),
    ],
)  # fmt: skip
def test_states_that_no_version_writes(state: Any, says: str, tmp_path: Path) -> None:
    if not says:
        assert one(state, tmp_path / "a.pt").modules[0].status == "empty"
        return
    with pytest.raises(InputError, match="extra state of proj: ") as raised:
        one(state, tmp_path / "a.pt")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
