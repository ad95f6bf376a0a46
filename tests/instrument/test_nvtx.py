"""What an NVTX tool is told of ranges, as the tool writes it down itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tetrace import _C

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@pytest.fixture(scope="session")
def tool(tmp_path_factory):
    """The NVTX tool, compiled."""
    library = tmp_path_factory.mktemp("nvtx") / "libtool.so"
    source = Path(__file__).with_name("nvtx_tool.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def events(folder, script, **environment):
    """What the tool was told of domain tetrace, in a process that runs `script` with its recording in `folder`."""
    log = folder / "events.txt"
    start = "import os, sys\nfrom pathlib import Path\nfrom tetrace import _C\nfrom tetrace.instrument import ranges\n"
    command = [sys.executable, "-c", start + textwrap.dedent(script), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, **environment, "NVTX_TOOL_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line[1] == "tetrace"]


def fields(lines, *wanted):
    """Columns of events."""
    names = ("what", "domain", "process", "thread", "category", "payload", "range", "name")
    return [tuple(line[names.index(name)] for name in wanted) for line in lines]


def test_a_tool_sees_names_categories_and_payloads(tmp_path, tool):
    script = """
        ranges.open(Path(sys.argv[1]))
        for _ in range(2):
            layer = ranges.site("module", "layers.0", phase="forward", module="layers.0")
            ranges.push(layer)
            with ranges.annotate("mine"):
                ranges.set_step(41)
            ranges.push(layer)
            ranges.unwind(0)
        step = ranges.start(ranges.site("step", "step"))
        ranges.end(step)
        assert (layer, step) == (0, 1)
        ranges.close()
        ranges.push(layer)
        ranges.pop()
    """
    seen = events(tmp_path, script, NVTX_INJECTION64_PATH=str(tool))
    at_41 = 42 << 32
    assert fields(seen, "what", "name", "category", "payload", "range") == [
        ("domain", "", "0", "0", "0"),
        ("string", "layers.0", "0", "0", "0"),
        ("push", "layers.0", "1", "0", "0"),
        ("string", "mine", "0", "0", "0"),
        ("push", "mine", "0", "1", "0"),
        ("pop", "", "0", "0", "0"),
        ("push", "layers.0", "1", str(at_41), "0"),
        ("pop", "", "0", "0", "0"),
        ("pop", "", "0", "0", "0"),
        ("push", "layers.0", "1", str(at_41), "0"),
        ("push", "mine", "0", str(at_41 | 1), "0"),
        ("pop", "", "0", "0", "0"),
        ("push", "layers.0", "1", str(at_41), "0"),
        ("pop", "", "0", "0", "0"),
        ("pop", "", "0", "0", "0"),
        ("string", "step", "0", "0", "0"),
        ("start", "step", "3", str(at_41 | 2), "1"),
        ("end", "", "0", "0", "1"),
    ]


def test_every_push_has_its_pop_when_ranges_go_off(tmp_path, tool):
    script = """
        ranges.open(Path(sys.argv[1]))
        layer = ranges.site("module", "layers.0", phase="forward")
        ranges.push(layer)
        ranges.push(layer)
        ranges.close()
        ranges.pop()
        ranges.open(Path(sys.argv[1]))
        ranges.pop()
    """
    seen = events(tmp_path, script, NVTX_INJECTION64_PATH=str(tool))
    assert [what for (what,) in fields(seen, "what")] == ["domain", "string", "push", "push", "pop", "pop"]


def test_a_tool_that_comes_later_is_told_from_the_next_step_on(tmp_path, tool):
    script = f"""
        ranges.open(Path(sys.argv[1]))
        layer = ranges.site("module", "layers.0", phase="forward")
        ranges.push(layer)
        os.environ["NVTX_INJECTION64_PATH"] = {str(tool)!r}
        ranges.set_step(0)
        ranges.push(layer)
        ranges.pop()
        ranges.pop()  # was opened before there was a tool
    """
    seen = events(tmp_path, script)
    assert [what for (what,) in fields(seen, "what")] == ["domain", "string", "push", "pop"]


def test_a_tool_that_cannot_be_loaded_is_no_tool(tmp_path):
    script = """
        ranges.open(Path(sys.argv[1]))
        with ranges.annotate("mine"):
            pass
        ranges.close()
    """
    assert events(tmp_path, script, NVTX_INJECTION64_PATH=str(tmp_path / "missing.so")) == []
    [ring] = tmp_path.glob("ranges-*.bin")
    assert len(_C.read_ring(str(ring))["site"]) == 1


def test_threads_are_told_apart_by_the_tool(tmp_path, tool):
    script = """
        import threading
        ranges.open(Path(sys.argv[1]))
        def work():
            for _ in range(1000):
                with ranges.annotate("a"):
                    ranges.push(ranges.site("annotate", "b"))
                    ranges.pop()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    seen = events(tmp_path, script, NVTX_INJECTION64_PATH=str(tool))
    by_thread = {}
    for thread, what, name in fields(seen, "thread", "what", "name"):
        if what in ("push", "pop"):
            by_thread.setdefault(thread, []).append(f"{what} {name}")
    assert list(by_thread.values()) == [["push a", "push b", "pop ", "pop "] * 1000] * 4


def test_a_forked_child_does_not_speak_for_its_parent(tmp_path, tool):
    script = """
        ranges.open(Path(sys.argv[1]))
        layer = ranges.site("module", "layers.0", phase="forward")
        span = ranges.start(layer)
        ranges.push(layer)
        if os.fork() == 0:
            ranges.pop()
            ranges.end(span)
            with ranges.annotate("child"):
                ranges.site("annotate", "only in the child")
            sys.exit(0)
        os.wait()
        ranges.pop()
        ranges.end(span)
    """
    seen = events(tmp_path, script, NVTX_INJECTION64_PATH=str(tool))
    in_parent = ["domain", "string", "start", "push", "pop", "end"]
    in_child = ["domain", "string", "start", "push"]  # the tool's memory at the fork, and nothing after it
    assert [what for (what,) in fields(seen, "what")] == in_child + in_parent
    assert "child" not in (tmp_path / "sites.jsonl").read_text()
