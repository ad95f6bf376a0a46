"""`tetrace.watch`: inspects the FP8 tensors of a model in a training loop or a notebook, and shows them as tables."""

from __future__ import annotations

import json
import operator
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tetrace.errors import UsageError
from tetrace.fp8 import recorded
from tetrace.instrument import (
    autograd,
    autograd_hooks,
    fp8_inspection,
    fp8_plain,
    modules,
    optimizer,
    process,
    ranges,
    steps,
)
from tetrace.instrument.fp8_inspection import Files, Inspection, Settings

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

# The sites in a folder as the tables of a trace; where recordings are read is another room (tetrace/__init__.py).
Read = Callable[[Path], Any]
_SITES = "sites.jsonl"


def _whole(name: str, value: Any, least: int, way_out: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name}={value!r} is no whole number; give {way_out}") from None
    if number < least:
        raise UsageError(f"{name}={value}; give {way_out}")
    return number


def _check_pattern(modules: str) -> None:
    try:
        re.compile(modules).search("")
    except (re.error, TypeError) as error:
        raise UsageError(
            f"modules={modules!r} is no regular expression ({error}); give one that is found in modules' paths, or '' for all"
        ) from None


class Watch:
    """Inspects a model's FP8 tensors in every N-th step; a context manager, or `start()` and `stop()`.

    `modules` is a regular expression that is searched for in modules' paths. Of a model that does not use FP8, only
    non-finite values are looked for.
    """

    def __init__(
        self,
        model: Any,
        *,
        every: int = 1,
        modules: str = "",
        histogram: bool = True,
        blocks: bool = False,
        checks: bool = True,
        recompute: int = 0,
        rows: int = 1,
        read: Read | None = None,
    ) -> None:
        every = _whole("every", every, 1, "1 to inspect each step, or N for each N-th")
        recompute = _whole("recompute", recompute, 0, "0 for never, or N for each N-th step")
        rows = _whole("rows", rows, 1, "1 to look at all rows, or N for each N-th of large tensors")
        _check_pattern(modules)
        if isinstance(model, type) or not hasattr(model, "modules"):
            given = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise UsageError(f"the model is a {given}; give a torch.nn.Module")
        self._model, self._read = model, read
        self._settings = Settings(every, 0, modules, histogram, blocks, checks, recompute, rows)
        self._parent = tempfile.TemporaryDirectory(prefix="tetrace-watch-")
        self._folder = Path(self._parent.name) / f"process-{os.getpid()}"
        self._folder.mkdir()
        self._undo: list[Callable[[], None]] = []
        self._inspection: Inspection | None = None
        self._trace: Any = None
        self._traced: tuple[int, list[str]] = (-1, [])

    def __repr__(self) -> str:
        seen = 0 if self._inspection is None else self._inspection.rows
        state = "watching" if self._undo else "not started" if self._inspection is None else "ended"
        failure = "" if self._inspection is None else self._inspection.failure
        of = f"{failure or state}: {seen:,} observations"
        return f"<tetrace.watch, {of}; table(), scales(), histograms(), trace() for tetrace.fp8>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begins. Raises `UsageError` for a watch that was used."""
        if self._undo or self._inspection is not None:
            raise UsageError("this watch has been used; make another one")
        if fp8_inspection.is_inspecting():
            # Under `tetrace record --fp8`, say: the script must run all the same.
            process.warn("a watch sees nothing while FP8 is inspected in this process already")
            return
        try:
            self._install()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends; what was seen stays."""
        while self._undo:
            with process.guarded("taking a patch out"):
                self._undo.pop()()

    def _install(self) -> None:
        """What is not there already, because a recording runs in this process."""
        if not ranges.is_on():
            ranges.open(None)
            self._undo.append(ranges.close)
        if not steps.is_following():
            self._undo.append(steps.install())
            steps.begin(0)
        if not modules.is_installed():
            observing = autograd.can_observe()
            self._undo.append(optimizer.install())
            self._undo.append(modules.install(tag=None if observing else autograd_hooks.tag, model=self._model))
            self._undo.append(autograd.install(observing))
        self._install_calls()
        folder = self._folder
        rows = fp8_plain.Appending(folder / recorded.ROWS_FILE, recorded.ROWS_HEADER)
        scales = fp8_plain.Appending(folder / recorded.SCALES_FILE, recorded.SCALES_HEADER)
        self._undo += [rows.close, scales.close]
        self._inspection = Inspection(self._settings, Files(rows.append, scales.append))
        self._undo.append(self._inspection.install())

    def _install_calls(self) -> None:
        from tetrace.instrument import imports, transformer_engine

        def install() -> None:
            # Ranges of the other parts are nobody's where nothing is recorded, and take the host's time all the same.
            if not transformer_engine.is_installed():
                self._undo.append(transformer_engine.install(only_for_fp8=True))

        self._undo.append(imports.after_import("transformer_engine.pytorch", install))

    def trace(self) -> Any:
        """What was seen so far, as a trace with the FP8 tables: for `tetrace.fp8` and everything else that takes one."""
        inspection = self._inspection
        seen: tuple[int, list[str]] = (-1, []) if inspection is None else (inspection.rows, inspection.said)
        if self._trace is None or seen != self._traced:
            self._write_sites(self._folder, seen[1])
            if self._read is None:
                raise UsageError("this watch cannot read what it wrote; make it with tetrace.watch")
            self._trace, self._traced = self._read(self._folder.parent), seen
        return self._trace

    def table(self) -> pd.DataFrame:
        """A row an observed tensor, in the order of launches: the table `fp8_tensors` (docs/tables.md)."""
        return self._frame("fp8_tensors")

    def scales(self) -> pd.DataFrame:
        """A row a tensor and update of delayed scaling: the table `fp8_scales`."""
        return self._frame("fp8_scales")

    def histograms(self) -> pd.DataFrame:
        """Histograms of magnitudes: the table `fp8_histograms`."""
        return self._frame("fp8_histograms")

    def _frame(self, name: str) -> pd.DataFrame:
        import pandas as pd

        tables = self.trace().tables
        return tables[name].to_pandas() if name in tables else pd.DataFrame()

    @staticmethod
    def _write_sites(folder: Path, notices: list[str]) -> None:
        lines = [json.dumps(dict(ranges.describe(site)), default=str) for site in ranges.sites_of_kind("fp8")]
        (folder / _SITES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        about = {"pid": os.getpid(), "notices": notices}
        (folder / "process.json").write_text(json.dumps(about), encoding="utf-8")
