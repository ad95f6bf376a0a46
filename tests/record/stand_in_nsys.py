"""A stand-in for nsys: takes the same command line, runs the command in it, and leaves what it is told to leave.

`write(folder, ...)` makes an executable `nsys` there. It is not nsys: it shows what tetrace asks for and how tetrace
takes what comes back. What nsys itself does is seen in tests/gpu.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_PROGRAM = """#!{python}
import json, os, shutil, signal, subprocess, sys
told = json.loads({told!r})
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("NVIDIA Nsight Systems version " + told["version"])
    sys.exit(0)
with open(told["log"], "a") as log:
    log.write(json.dumps([arguments, {{k: v for k, v in os.environ.items() if k.startswith(("NSYS", "TETRACE"))}}]) + "\\n")
if arguments[0] == "export":
    kind, output = arguments[arguments.index("--type") + 1], arguments[arguments.index("--output") + 1]
    if kind not in told["exports"]:
        print("unknown type " + kind)
        sys.exit(1)
    shutil.copyfile(told["export"], output)
    sys.exit(0)
assert arguments[0] == "profile"
output = next(word for word in arguments if word.startswith("--output=")).partition("=")[2]
command = arguments[1:]
while command[0].startswith("-"):
    command = command[1:]
print("Collecting data...")
if told["refuses"]:
    print("unrecognised option " + repr(told["refuses"]))
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
process = subprocess.Popen(command, close_fds=False, restore_signals=False, preexec_fn=lambda: None)
code = process.wait()
print(told["says"])
for suffix in told["leaves"]:
    shutil.copyfile(told["export"], output + suffix)
sys.exit(128 - code if code < 0 else code)
"""


def write(
    folder: Path,
    export: Path,
    *,
    version: str = "2025.3.1.90-253135822126v0",
    leaves: tuple[str, ...] = (".nsys-rep",),
    exports: tuple[str, ...] = ("sqlite",),
    says: str = "Generated:",
    refuses: str = "",
) -> Path:
    """Make `folder`/nsys; returns the file where its calls are listed, as [arguments, variables] lines."""
    log = folder / "calls.jsonl"
    told = {
        "log": str(log),
        "export": str(export),
        "version": version,
        "leaves": leaves,
        "exports": exports,
        "says": says,
        "refuses": refuses,
    }
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nsys"
    program.write_text(_PROGRAM.format(python=sys.executable, told=json.dumps(told)), encoding="utf-8")
    program.chmod(0o755)
    return log
