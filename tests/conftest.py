"""Leaves out the tests that need a GPU where there is none, and says which they are."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A shell starts what runs in the background with these ignored, and programs inherit that: tests that send them to what
# they start would then wait for ever.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Else OpenMP's threads (of torch, here and in what tests start) spin while they wait for each other, which takes several
# times what they compute where more tests than processors run at a time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No test is about how fast this machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Files whose tests take the longest in sum go first (`make test` keeps the order): one that came last would run alone.
LONGEST = (
    "study/test_run.py",
    "study/test_first_steps.py",
    "collector/test_cpp.py",
    "collector/test_stand_in.py",
    "instrument/test_collector.py",
    "record/test_cupti_collector.py",
    "cli/record/test_saved.py",
    "instrument/test_unchanged.py",
    "study/test_resume.py",
    "cli/test_report.py",
    "instrument/test_start.py",
    "report/test_html_browser.py",
    "instrument/test_autograd.py",
    "fp8/test_scale_updates.py",
    "fp8/test_whatif_bounds.py",
    "study/test_memory.py",
    "report/test_perfetto.py",
    "study/test_earlier.py",
    "cli/test_diff.py",
    "fp8/test_hostile_checkpoint.py",
)
NOT_RUN = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session", autouse=True)
def _observer() -> Path | None:
    """Built before the first test: a process remembers whether it found the observer, and recordings have a notice without
    it, so that results would depend on the order of tests."""
    if find_spec("torch") is None or not any(map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))):
        return None
    from tetrace.instrument import observer

    return observer.build()


@pytest.fixture(scope="session")
def cache(_observer: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for XDG_CACHE_HOME with the observer and nothing else: compiling it takes longer than most tests."""
    folder = tmp_path_factory.mktemp("cache")
    if _observer is not None:
        shutil.copytree(_observer.parent, folder / "tetrace" / _observer.parent.name)
    return folder


@pytest.fixture(scope="session")
def compiler(_observer: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C++ compiler that gives the observer which was built before the first test, and knows nothing else: compiling that
    anew takes half a minute."""
    file = tmp_path_factory.mktemp("compiler") / "c++"
    file.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp "{_observer}" "$2"\n')
    file.chmod(0o755)
    return file


@functools.cache
def why_no_gpu() -> str:
    """What keeps tests marked `gpu` from running here; empty where they can run."""
    if not Path("/dev/nvidia0").exists() and not Path("/dev/dxg").exists():
        return "there is no NVIDIA device here"
    if find_spec("torch") is None:
        return "torch is not installed here"
    import torch

    return "" if torch.cuda.is_available() else "torch finds no CUDA device here"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests marked `gpu`, and orders files."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and why_no_gpu():
        config.stash[NOT_RUN] = [item.nodeid for item in needing]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist a worker has collected: it tells the process that writes the summary."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["not_run"] = session.config.stash.get(NOT_RUN, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers collect the same, so whoever ends last says what the others said."""
    found = getattr(node, "workeroutput", {}).get("not_run")
    if found:
        node.config.stash[NOT_RUN] = found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Lists what was left out."""
    not_run = config.stash.get(NOT_RUN, [])
    if not_run:
        terminalreporter.section(f"{len(not_run)} tests need a GPU and were not run: {why_no_gpu()}")
        for test in not_run:
            terminalreporter.line(test)
    else:
        terminalreporter.line("No test that needs a GPU was left out.")
