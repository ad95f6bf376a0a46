"""Commands in advice, which know no path: those who print them say which recording was asked about."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tetrace.breakdown.finding import Finding

_RUN = re.compile(r"(?<=tetrace fp8 )(\w+) RUN\b")


def with_path(text: str, run: str) -> str:
    """`text` with the recording `run` where a command of it says RUN, as a shell takes it; unchanged where it is empty."""
    return _RUN.sub(lambda found: f"{found[1]} {shlex.quote(run)}", text) if run else text


def of_run(findings: Sequence[Finding], run: str) -> list[Finding]:
    """Findings whose advice can be pasted."""
    return [dataclasses.replace(one, advice=with_path(one.advice, run)) for one in findings]
