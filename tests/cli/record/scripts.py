"""Scripts that tests record, and ways to start `tetrace record`."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.descent import DESCENT

TETRACE = [sys.executable, "-m", "tetrace", "record"]
EXPORT = Path(__file__).parents[2] / "data" / "te4-fp8.sqlite"
# Ends with an exit code of its own, since without torch there is nothing to record and a 0 becomes a 2.
TALKS = """
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), sys.stdin.read(), [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)]]))
sys.stdout.buffer.write(b"\\xff\\x00\\r\\n")
print("its error", file=sys.stderr)
sys.exit(3)
"""
TRAINS = (
    DESCENT
    + """
import os, signal, sys, time
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
optimizer = Descent(model.parameters(), {})
for step in range(8):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    if step == 5:
        eval(sys.argv[1])
print("trained")
"""
)


def run(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace", "check": False, **how}
    return subprocess.run([*TETRACE, *arguments], **given)  # type: ignore[call-overload, no-any-return]


def python(code: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", code)


def ours(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("tetrace: ")]


def started(code: str, **how: object) -> subprocess.Popen[str]:
    """A recorder whose script has printed `ready`."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        [*TETRACE, *python(f"import signal, sys, time, os\n{code}")],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True, **how},
    )
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


def terminal(code: str, typed: Callable[[bytes], bytes | None]) -> tuple[int, str]:
    """Run a script on a terminal of its own; `typed` is given what came so far and says what to type."""
    terminal_fd, its_end = pty.openpty()
    # A new session has no terminal until it takes one, which only its leader can do. Not `pty.fork()`: a process of
    # tests can have claimed so much memory that no copy of it is granted.
    take = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", take, *TETRACE, *python(f"import os, signal, sys, time\n{code}")],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    out, sent = b"", set()
    with contextlib.suppress(OSError):
        while part := os.read(terminal_fd, 9999):
            out += part
            keys = typed(out)
            if keys and keys not in sent:
                sent.add(keys)
                os.write(terminal_fd, keys)
    os.close(terminal_fd)
    return process.wait(), out.decode()
