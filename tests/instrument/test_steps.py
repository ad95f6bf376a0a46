"""Where steps end, whoever drives the loop, and which steps the window holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tests.instrument.runs import Net, Row, names, nn, process_folder, read, record, torch, train
from tetrace.instrument import start


def steps(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.kind == "step"]


def held(rows: list[Row], step: int, *kinds: str) -> list[str]:
    """The kinds of the ranges that started in a step, in order."""
    return [row.kind for row in sorted(rows, key=lambda row: row.start_ns) if row.step == step and row.kind in kinds]


LOOP = ("backward", "optimizer", "zero_grad", "grad_clip")


def test_a_step_ends_with_its_optimizer(tmp_path: Path) -> None:
    model = Net()
    rows = record(tmp_path, lambda: train(model, steps=4))
    # The first end is learned at the next forward, so that only the first zero_grad is in the step before it.
    assert [held(rows, step, *LOOP) for step in range(5)] == [
        ["backward", "optimizer", "zero_grad"],
        *[["backward", "optimizer"], *[["zero_grad", "backward", "optimizer"]] * 2, ["zero_grad"]],
    ]
    ends = [row.end_ns for row in steps(rows)]
    assert all(end <= row.start_ns for end, row in zip(ends, steps(rows)[1:], strict=False))
    assert [row.step for row in steps(rows)] == [0, 1, 2, 3, 4]


def test_gradients_accumulate_within_a_step(tmp_path: Path) -> None:
    model = Net()
    rows = record(tmp_path, lambda: train(model, steps=3, accumulate=4))
    assert [held(rows, step, "backward") for step in range(3)] == [["backward"] * 4] * 3


def test_the_last_of_several_optimizers_drives(tmp_path: Path) -> None:
    model = Net()
    first, second = torch.optim.SGD(model.layers.parameters(), 0.1), torch.optim.AdamW(model.head.parameters())

    def body() -> None:
        for _ in range(3):
            model(torch.randn(2, 8)).sum().backward()
            first.step()
            second.step()

    rows = record(tmp_path, body)
    assert [held(rows, step, "backward", "optimizer") for step in range(4)] == [
        *[["backward", "optimizer", "optimizer"]] * 3,
        [],
    ]


def test_models_that_take_turns_make_one_step_a_round(tmp_path: Path) -> None:
    critic, maker = nn.Linear(8, 1), nn.Linear(8, 8)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (critic, maker)]

    def body() -> None:
        for _ in range(4):
            critic(maker(torch.randn(2, 8)).detach()).sum().backward()
            optimizers[0].step()
            critic(maker(torch.randn(2, 8))).sum().backward()
            optimizers[1].step()

    rows = record(tmp_path, body)
    assert [held(rows, step, "optimizer") for step in range(5)] == [
        ["optimizer"],
        *[["optimizer"] * 2] * 3,
        ["optimizer"],
    ]


def test_the_user_may_say_where_steps_end(tmp_path: Path) -> None:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def body() -> None:
        for _ in range(3):
            model(torch.randn(2, 8)).sum().backward()
            optimizer.step()
            optimizer.step()
            tetrace.step()

    rows = record(tmp_path, body)
    assert [held(rows, step, "backward", "optimizer") for step in range(4)] == [
        *[["backward", "optimizer", "optimizer"]] * 3,
        [],
    ]


def test_tetrace_step_does_nothing_outside_a_recording() -> None:
    tetrace.step()


def test_a_replaced_optimizer_is_noticed(tmp_path: Path) -> None:
    model = Net()

    def body() -> None:
        optimizers = [torch.optim.SGD(model.parameters(), 0.1) for _ in range(2)]
        for optimizer in optimizers:
            train(model, steps=20, optimizer=optimizer)

    assert len(steps(record(tmp_path, body))) == 40 - 8 + 1


def test_an_optimizer_that_raises_leaves_nothing_open(tmp_path: Path) -> None:
    model = Net()

    def closure() -> None:
        raise ValueError("in the closure")

    def body() -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with pytest.raises(ValueError, match="in the closure"):
            optimizer.step(closure)
        train(model, steps=2, optimizer=optimizer)

    rows = record(tmp_path, body)
    assert [row.depth for row in rows if row.kind == "optimizer"] == [0, 0, 0]
    assert all(row.end_ns for row in rows)


def test_clipping_and_zero_grad_have_ranges(tmp_path: Path) -> None:
    model = Net()

    def body() -> None:
        model(torch.randn(2, 8)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        torch.optim.SGD(model.parameters(), 0.1).zero_grad()

    rows = record(tmp_path, body)
    assert set(names(rows, "grad_clip")) >= {"clip_grad_norm_"}
    assert names(rows, "zero_grad") == ["zero_grad"]
    assert {row.phase for row in rows if row.kind in ("grad_clip", "zero_grad")} == {"optimizer"}


def test_after_the_window_only_steps_are_kept(tmp_path: Path) -> None:
    model = Net()
    plain = nn.Module._call_impl
    rows = record(tmp_path, lambda: train(model, steps=6), first_step=1, last_step=3, capture="nvtx")
    assert nn.Module._call_impl is plain
    assert [bool(held(rows, step, "module", "optimizer")) for step in range(6)] == [True] * 3 + [False] * 3
    assert [row.step for row in steps(rows)] == list(range(7))
    (capture,) = (row for row in rows if row.kind == "capture")
    assert capture.name == "tetrace-capture"
    # A range that began before the capture is not in it: the capture lies around its steps.
    assert steps(rows)[0].end_ns <= capture.start_ns <= steps(rows)[1].start_ns
    assert steps(rows)[2].end_ns <= capture.end_ns <= steps(rows)[3].start_ns


def test_seconds_close_the_window(tmp_path: Path) -> None:
    import time

    model = Net()

    def body() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not list(tmp_path.glob("left-*")):
            train(model, steps=1)
        train(model, steps=2)

    rows = record(tmp_path, body, seconds=0.2, capture="nvtx")
    last = max(row.step for row in steps(rows))
    assert held(rows, 0, "module")
    assert not held(rows, last - 1, "module", "optimizer")


class Others:
    """Other local processes of a run, played by their files in the recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def came(self) -> None:
        """Two others are in their window."""
        for pid in (1, 2):
            (self.folder / f"entered-{pid}").touch()

    def left(self) -> None:
        """They have left it."""
        for pid in (1, 2):
            (self.folder / f"left-{pid}").touch()


def captured(tmp_path: Path, meanwhile: Callable[[Others], Any], **options: Any) -> tuple[list[Row], list[Row]]:
    """The capture's ranges and the steps of a run of eight steps whose window is 0 to 2; others leave at step 5."""
    model, others = Net(), Others(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    meanwhile(others)
    start.start(tmp_path, {"last_step": 2, "capture": "nvtx", **options})
    train(model, steps=5)
    others.left()
    train(model, steps=3)
    start.stop()
    rows = read(tmp_path)
    return [row for row in rows if row.kind == "capture"], steps(rows)


def test_steps_are_counted_where_modules_are_not_followed(tmp_path: Path) -> None:
    model = Net()
    rows = record(tmp_path, lambda: train(model, steps=4, accumulate=2), ranges="off")
    assert {row.kind for row in rows} == {"step"}
    assert len(rows) == 5


def test_the_capture_waits_for_the_last_process(tmp_path: Path) -> None:
    (capture,), found = captured(tmp_path, Others.came)
    assert capture.end_ns >= found[4].end_ns


def test_only_the_first_process_starts_the_capture(tmp_path: Path) -> None:
    def meanwhile(others: Others) -> None:
        others.came()
        (others.folder / "capture-started").touch()

    assert captured(tmp_path, meanwhile)[0] == []


def test_processes_that_are_still_to_come_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    (capture,), found = captured(tmp_path, lambda others: None)
    assert capture.end_ns >= found[4].end_ns


def test_memory_is_accounted_by_module(tmp_path: Path) -> None:
    model = Net()
    record(tmp_path, lambda: train(model, steps=2))
    rows = json.loads((process_folder(tmp_path) / "modules.json").read_text())["modules"]
    by_path = {row["path"]: row for row in rows}
    assert set(by_path) == {f"layers.{n}.{part}" for n in (0, 1) for part in ("norm", "mlp.0", "mlp.2")} | {"head"}
    head = {"path": "head", "class": "Linear", "parameters": 72, "parameter_bytes": 288}
    # AdamW keeps two moments of the size of the parameters, and a step count of 4 bytes for each.
    assert by_path["head"] == {
        **head,
        "fp8_bytes": 0,
        "transpose_bytes": 0,
        "master_bytes": 0,
        "optimizer_bytes": 2 * 288 + 2 * 4,
    }
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in model.parameters())
