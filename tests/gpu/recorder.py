"""What tests of both recorders share: `tetrace record` of a command, and the sizes of the models under profiles/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
SIZES = ["--layers", "2", "--hidden", "1024", "--ffn", "4096", "--heads", "16", "--batch", "8", "--seq", "512"]
SIZES += ["--nvtx", "none", "--steps", "12"]


def record(folder: Path, collector: str, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`tetrace record` of `command` into `folder`/run.tetrace."""
    keep = ["--keep-nsys-rep"] if collector == "nsys" else []
    record = [sys.executable, "-m", "tetrace", "record", "--collector", collector, *keep, "-o", str(folder / "run")]
    done = subprocess.run(
        [*record, "--", *command], capture_output=True, text=True, cwd=folder, timeout=400, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done
