"""Checkpoints that want to do harm, and damaged ones: one clear error, nothing run, nothing large made."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp

from tests.fp8.checkpoints import as_bytes_io, as_tensor, linear, save_safetensors, state_dict
from tetrace.errors import InputError
from tetrace.fp8 import plain_pickle
from tetrace.fp8.checkpoint import read_checkpoint
from tetrace.fp8.pickled import RefusedError

CANARY = "canary-of-tetrace"


class _Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def touch(canary: Path) -> dict[str, bytes]:
    """Pickles that create `canary` when they are loaded by `pickle`, and what they name."""
    command, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word.encode()  # noqa: E731
    return {
        "posix.system": pickle.dumps(_Calls(os.system, command)),
        "builtins.eval": pickle.dumps(_Calls(eval, code), protocol=2),
        "os.system": b"cos\nsystem\n(" + text(command) + b"tR.",
        "builtins.exec": b"\x80\x04" + text("builtins") + text("exec") + b"\x93" + text(code) + b"\x85R.",
        "subprocess.Popen": b"(isubprocess\nPopen\n.".replace(b"(i", b"(" + text(command) + b"i"),
        "builtins.open": b"(cbuiltins\nopen\n" + text(str(canary)) + text("w") + b"o.",
        # By way of an attribute of what is allowed, through a module that it can see.
        "torch.storage.io.open": b"ctorch.storage\nio.open\n(" + text(str(canary)) + text("w") + b"tR.",
        "importlib.import_module": b"cimportlib\nimport_module\n(" + text("antigravity") + b"tR.",
        "functools.partial": b"cfunctools\npartial\n(cos\nsystem\n" + text(command) + b"tR.",
        "operator.attrgetter": b"coperator\nattrgetter\n(" + text("__class__") + b"tR.",
        "webbrowser.open": b"\x80\x02cwebbrowser\nopen\n" + text("x") + b"\x85R.",
    }


# Loads that pass the allow-list by their names, and try to make it do something by other means.
TRICKS = {
    "state of a name": b"ccollections\nOrderedDict\n}X\x09\x00\x00\x00__class__K\x01sb.",
    "state of a text": b"X\x01\x00\x00\x00a}b.",
    "state through slots": b"ctorch._utils\n_rebuild_parameter\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "a call of a text": b"X\x06\x00\x00\x00os.pop)R.",
    "a call of a call": b"ccollections\nOrderedDict\n)R)R.",
    "an attribute of a value": b"cbuiltins\ngetattr\n(X\x01\x00\x00\x00aX\x09\x00\x00\x00__class__tR.",
    "an extension of copyreg": b"\x80\x02\x82\x01.",
    "a buffer out of band": b"\x80\x05\x97.",
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "a deep key": b"}" + b"(" * 200_000 + b"K\x01" + b"t" * 200_000 + b"K\x01s.",
    "two values": b"K\x01K\x02.",
    "no value": b".",
    "a mark left open": b"(K\x01.",
    "a memo that was never put": b"h\x05.",
    "an unknown opcode": b"\x00.",
    "no end": b"K\x01",
    "bytes in a strange codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    "more bytes than there are": b"\x8e" + struct.pack("<Q", 1 << 60) + b"a.",
    "an array larger than memory": b"\x96" + struct.pack("<Q", 1 << 60) + b"a.",
}


def archive(pickled: bytes, **entries: bytes) -> bytes:
    """A file of torch.save with this pickle."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, content in {"data.pkl": pickled, "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", content)
    return held.getvalue()


def refused(path: Path) -> str:
    """The one line that a checkpoint is refused with."""
    with pytest.raises(InputError) as raised:
        read_checkpoint(path)
    line = str(raised.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < 600
    return line


def in_file(pickled: bytes, folder: Path) -> Path:
    path = folder / "a.pt"
    path.write_bytes(archive(pickled))
    return path


def in_tensor(pickled: bytes, folder: Path) -> Path:
    state = torch.frombuffer(bytearray(pickled), dtype=torch.uint8)
    torch.save({"proj.weight": torch.zeros(2), "proj._extra_state": state}, folder / "a.pt")
    return folder / "a.pt"


def in_safetensors(pickled: bytes, folder: Path) -> Path:
    save_safetensors({"proj._extra_state": torch.frombuffer(bytearray(pickled), dtype=torch.uint8)}, folder / "a")
    return folder / "a"


def in_bytes_io(pickled: bytes, folder: Path) -> Path:
    torch.save({"proj._extra_state": io.BytesIO(archive(pickled))}, folder / "a.pt")
    return folder / "a.pt"


def in_storage(pickled: bytes, folder: Path) -> Path:
    """Where torch would call `_load_from_bytes`, which is torch.load."""
    state = pickle.dumps({"recipe": None, "scale_fwd": torch.ones(3), "amax_history_fwd": torch.ones(2, 3)}, protocol=3)
    magic = state.index(b"\x80\x02\x8a\x0al\xfc\x9c")
    length = struct.unpack("<I", state[magic - 4 : magic])[0]
    changed = state[: magic - 4] + struct.pack("<I", len(pickled)) + pickled + state[magic + length :]
    return in_tensor(changed, folder)


def in_metadata(pickled: bytes, folder: Path) -> Path:
    (folder / ".metadata").write_bytes(pickled)
    return folder


def in_shard(pickled: bytes, folder: Path) -> Path:
    with pytest.warns(UserWarning, match="torch.distributed"):
        dcp.save({"proj._extra_state": as_tensor(linear())}, checkpoint_id=folder, no_dist=True)
    (shard,) = folder.glob("*.distcp")
    size, hostile = shard.stat().st_size, archive(pickled)
    # The directory of a zip is found from its end: what stands before it does not matter, and the length stays.
    assert len(hostile) < size
    shifted = _moved(hostile, size - len(hostile))
    shard.write_bytes(shifted)
    return folder


def _moved(zipped: bytes, by: int) -> bytes:
    """A zip file with `by` bytes before it, and the offsets in it."""
    held = io.BytesIO(b"\0" * by)
    with zipfile.ZipFile(io.BytesIO(zipped)) as old, zipfile.ZipFile(held, "a") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return held.getvalue()


PLACES: list[Callable[[bytes, Path], Path]] = [
    in_file, in_tensor, in_safetensors, in_bytes_io, in_storage, in_metadata, in_shard,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", [*touch(Path())])
def test_nothing_is_run_wherever_it_is(
    name: str, place: Callable[[bytes, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = touch(tmp_path / CANARY)[name]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    if place is in_storage and name in ("os.system", "builtins.open"):
        pickled = b"\x80\x02" + pickled
    line = refused(place(pickled, folder))
    assert f"names '{name}', which is not on the list" in line
    assert "nothing of it was run" in line
    assert not (tmp_path / CANARY).exists()


def test_the_pickles_of_this_test_do_harm(tmp_path: Path) -> None:
    """Or refusing them would show nothing."""
    done = set()
    for name, pickled in touch(tmp_path / CANARY).items():
        script = f"import pickle; pickle.loads({pickled!r})"
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, cwd=tmp_path)
        if (tmp_path / CANARY).exists():
            (tmp_path / CANARY).unlink()
            done.add(name)
    assert {"posix.system", "builtins.eval", "os.system", "builtins.exec", "builtins.open"} <= done


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("trick", [*TRICKS])
def test_tricks_within_the_allow_list(trick: str, place: Callable[[bytes, Path], Path], tmp_path: Path) -> None:
    if place is in_shard and len(TRICKS[trick]) > 1000:
        pytest.skip("larger than the shard that it replaces")
    assert refused(place(TRICKS[trick], tmp_path))


def test_names_that_look_allowed_are_not(tmp_path: Path) -> None:
    for name in (b"torch\nload", b"torch.hub\nload", b"transformer_engine.common.recipe\nos.system", b"numpy\nload",
                 b"torch._utils\n_rebuild_tensor_v2.__globals__", b"transformer_engine.pytorch.module\nexec_"):  # fmt: skip
        with pytest.raises(RefusedError, match="not on the list"):
            plain_pickle.read(b"c" + name + b"\n.")


def test_what_is_allowed_on_request_is_data_all_the_same(tmp_path: Path) -> None:
    canary = tmp_path / CANARY
    path = in_file(b"}X\x01\x00\x00\x00a" + touch(canary)["os.system"][:-1] + b"s.", tmp_path)
    assert read_checkpoint(path, allow=["os.system"]).modules == ()
    assert not canary.exists()
    assert "; --allow NAME reads it as plain data" in refused(path)


def test_a_zip_bomb(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 KiB: torch.save does not compress, so nothing is unpacked."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (64 << 20))
    assert "is compressed" in refused(path)


@pytest.mark.parametrize("field", ["size", "offset", "directory", "count"])
def test_sizes_that_are_not_true(field: str, tmp_path: Path) -> None:
    whole = bytearray(archive(pickle.dumps({"a": 1}, protocol=2)))
    entry, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    places = {"size": entry + 20, "offset": entry + 42, "directory": end + 12, "count": end + 10}
    if field == "count":
        whole[places[field] : places[field] + 2] = struct.pack("<H", 0x7FFF)
    else:
        whole[places[field] : places[field] + 4] = struct.pack("<I", 0x7FFFFFFF)
    if field == "size":
        whole[entry + 24 : entry + 28] = struct.pack("<I", 0x7FFFFFFF)
    path = tmp_path / "a.pt"
    path.write_bytes(whole)
    assert "cannot be read as a checkpoint" in refused(path)


def test_a_memo_of_a_large_number_takes_no_memory(tmp_path: Path) -> None:
    """`pickle` makes a table as large as the number; it is in 5 bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert plain_pickle.read(b"K\x01r\xff\xff\xff\x7f.") == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def _text(word: str) -> bytes:
    encoded = word.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


# What is memoized once, and copied by each call: of 200 KB several GB.
AMPLIFIERS = {
    "bytes": (_text("a" * 200_000) + b"q\x00", b"c_codecs\nencode\nh\x00" + _text("latin1") + b"\x86R0"),
    "bytes in UTF-8": (_text("\xe9" * 100_000) + b"q\x00", b"c_codecs\nencode\nh\x00" + _text("utf-8") + b"\x86R0"),
    "lists": (b"](" + b"K\x01" * 100_000 + b"eq\x00", b"cbuiltins\nlist\nh\x00\x85R0"),
    "tuples of a text": (_text("a" * 200_000) + b"q\x00", b"ctorch\nSize\nh\x00\x85R0"),
    "dicts": (b"](" + b"K\x01K\x02\x86" * 40_000 + b"eq\x00", b"ccollections\nOrderedDict\nh\x00\x85R0"),
    "names": (
        _text("transformer_engine.common.recipe") + b"q\x010" + _text("A" * 200_000) + b"q\x00",
        b"h\x01h\x00\x930",
    ),
}


@pytest.mark.parametrize("kind", [*AMPLIFIERS])
def test_copies_have_a_budget(kind: str, tmp_path: Path) -> None:
    """The one of a whole file is of its size: it is refused before there are as many copies as it asks for."""
    once, again = AMPLIFIERS[kind]
    path = in_file(b"\x80\x02" + once + b"0" + again * 10_000 + b"N.", tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "ask for copies of more than 16 times as many" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert plain_pickle.read(b"\x80\x02" + once + b"0" + again + b"N.") is None


def test_many_states_of_one_storage(tmp_path: Path) -> None:
    state = torch.cat([as_tensor(linear()), torch.zeros(1 << 20, dtype=torch.uint8)])
    path = tmp_path / "a.pt"
    torch.save({f"m{n}._extra_state": state for n in range(2)}, path)
    assert len(read_checkpoint(path).modules) == 2
    torch.save({f"m{n}._extra_state": state for n in range(100)}, path)
    assert "ask for copies of more than 16 times as many" in refused(path)


def test_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("tetrace.fp8.checkpoint.open_contents", read)
    assert "it asks for more memory than there is" in refused(tmp_path / "a.pt")


def test_an_attribute_is_a_name_too() -> None:
    """Joined, it is held against the list as any other."""
    for owner, name in (("builtins\nobject", "__class__x"), ("transformer_engine.common.recipe\nFormat", "__class__")):
        with pytest.raises(RefusedError, match=rf"{name}', which is not on the list"):
            plain_pickle.read(b"cbuiltins\ngetattr\n(c" + owner.encode() + b"\n" + _text(name) + b"tR.")
    for name in ("E4M3", "HYBRID"):
        owner = b"transformer_engine.common.recipe\nFormat\n"
        found = plain_pickle.read(b"cbuiltins\ngetattr\n(c" + owner + _text(name) + b"tR.")
        assert found.name == f"transformer_engine.common.recipe.Format.{name}"


def test_a_tensor_larger_than_its_storage(tmp_path: Path) -> None:
    state = {"proj._extra_state": as_tensor(linear())}
    held = io.BytesIO()
    torch.save(state, held)
    size = state["proj._extra_state"].numel()
    changed = held.getvalue().replace(
        b"M" + struct.pack("<H", size) + b"\x85", b"M" + struct.pack("<H", 60_000) + b"\x85"
    )
    assert changed != held.getvalue()
    path = tmp_path / "a.pt"
    path.write_bytes(changed)
    assert "does not fit" in refused(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"hello world", "neither a zip file"),
        (b"a" * 600, "neither a zip file"),
        (pickle.dumps({"a": 1}, protocol=2), "neither a zip file"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9, "neither a zip file"),
        (struct.pack("<Q", 1 << 50) + b"{", "cut off"),
        (struct.pack("<Q", 5) + b"{abc}", "no JSON"),
        (struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995, "no JSON"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "is not described"),
        (b"PK\x03\x04" + b"\0" * 50, "no zip directory"),
    ],
)
def test_files_of_other_kinds(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert says in refused(path)


def test_files_before_zip_are_refused_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(_Calls(os.system, f"touch {tmp_path / CANARY}"), path, _use_new_zipfile_serialization=False)
    assert "torch.load(weights_only=True) and save again" in refused(path)
    assert not (tmp_path / CANARY).exists()


def test_paths_that_are_no_checkpoints(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "missing.pt")
    assert "no file .metadata" in refused(tmp_path)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "a/b", "", "link"])
def test_metadata_names_files_of_its_folder_only(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    with pytest.warns(UserWarning, match="torch.distributed"):
        dcp.save({"proj._extra_state": as_tensor(linear())}, checkpoint_id=folder, no_dist=True)
    (shard,) = folder.glob("*.distcp")
    (tmp_path / "secret").write_bytes(shard.read_bytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    old = b"\x8c" + bytes([len(shard.name)]) + shard.name.encode()
    pickled = (folder / ".metadata").read_bytes()
    assert old in pickled
    # The frame is one byte length longer or shorter; readers do not need it.
    changed = pickled.replace(old, b"\x8c" + bytes([len(place)]) + place.encode())
    (folder / ".metadata").write_bytes(changed[:2] + changed[11:])
    assert "outside of the folder" in refused(folder)


@pytest.mark.parametrize("kind", ["pt", "io", "safetensors", "dcp", "metadata"])
def test_every_cut_is_an_error(kind: str, tmp_path: Path) -> None:
    """Cut anywhere, a file is refused in one line; a whole one is read."""
    whole, path, at = _whole(kind, tmp_path)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(whole) - 1))
    def cut(length: int) -> None:
        at.write_bytes(whole[:length])
        refused(path)

    cut()
    at.write_bytes(whole)
    assert read_checkpoint(path).modules


@pytest.mark.parametrize("kind", ["pt", "io", "safetensors", "dcp", "metadata"])
def test_no_change_of_bytes_is_a_defect(kind: str, tmp_path: Path) -> None:
    """Any bytes: read, or refused as input; never another exception."""
    whole, path, at = _whole(kind, tmp_path)

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=4))
    def change(place: int, new: bytes) -> None:
        at.write_bytes(whole[:place] + new + whole[place + len(new) :])
        try:
            read_checkpoint(path)
        except InputError:
            return

    change()


def _whole(kind: str, folder: Path) -> tuple[bytes, Path, Path]:
    """A checkpoint's bytes, its path, and the file that they are in."""
    path = at = folder / "a"
    if kind == "safetensors":
        save_safetensors({**state_dict(), "last": torch.ones(1)}, path)
    elif kind in ("dcp", "metadata"):
        with pytest.warns(UserWarning, match="torch.distributed"):
            dcp.save({"proj._extra_state": as_tensor(linear())}, checkpoint_id=folder, no_dist=True)
        path = folder
        at = next(folder.glob("*.distcp")) if kind == "dcp" else folder / ".metadata"
    else:
        state = as_bytes_io(linear()) if kind == "io" else as_tensor(linear())
        torch.save({"proj.weight": torch.ones(2), "proj._extra_state": state}, path)
    return at.read_bytes(), path, at


def test_a_head_of_safetensors_with_a_hostile_shape(tmp_path: Path) -> None:
    head = {"a._extra_state": {"dtype": "U8", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 1]}}
    text = json.dumps(head).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"a")
    assert "does not fit" in refused(path)
