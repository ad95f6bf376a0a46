"""What runs inside the recorded script: ranges around its modules, steps, quantization and attention.

The package can be called: `tetrace.instrument()` starts it in a script that runs under another profiler's command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType


class _Instrument(ModuleType):
    """This package, which `tetrace.instrument()` calls: the function and the package have one name."""

    def __call__(self, ranges: str = "modules", folder: str | os.PathLike[str] | None = None) -> Path:
        """See `tetrace.instrument.start.instrument`."""
        from tetrace.instrument import start

        return start.instrument(ranges, folder)


sys.modules[__name__].__class__ = _Instrument
