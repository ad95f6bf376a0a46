"""Where a command ran: what a recording says of the machine and the checkout."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tetrace.instrument.masking import variables


def host() -> str:
    """Tells hosts apart without naming them."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def git(folder: Path) -> dict[str, object] | None:
    """Revision of the checkout around `folder`, and whether tracked files were changed; None where there is none."""
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=5,
            # Reading must not write to the user's checkout, and must not wait for a lock on it.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if not done.returncode else None


def describe(environ: Mapping[str, str], folder: Path) -> dict[str, object]:
    """All that run.json says about where a command ran."""
    return {
        "host": host(),
        "environment": variables(environ),
        "git": git(folder),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }
