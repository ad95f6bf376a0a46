"""`tetrace.timer`: GPU times of a model's modules in a run that no profiler slows down."""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tetrace import _C
from tetrace.errors import UsageError
from tetrace.instrument import autograd, autograd_hooks, module_times, modules, optimizer, process, ranges, steps
from tetrace.instrument.module_times import Driver, Measuring
from tetrace.instrument.row_file import RowFile

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

# (columns of the table, sentences to say, width, whether in colour) -> text
Summarize = Callable[[Mapping[str, Any], Sequence[str], int, bool], str]
_WIDTH = 100


class Timer:
    """GPU times of a model's modules, forward and backward, in every N-th step; a context manager.

    `stream_elapsed_ns` is the time on the stream between an event before the module's first launch and one after its
    last: where the stream ran empty meanwhile, it holds the time that the host took too.
    """

    def __init__(
        self,
        model: Any,
        *,
        every: int = 10,
        modules: str | Sequence[str] = "*",
        depth: int | None = None,
        history: str | os.PathLike[str] | None = None,
        show: bool = True,
        summarize: Summarize | None = None,
        driver: Driver | None = None,
    ) -> None:
        if every < 1:
            raise UsageError(f"every={every}; give 1 to measure each step, or more")
        if depth is not None and depth < 0:
            raise UsageError(f"depth={depth}; give 0 for the model itself, or more")
        if not hasattr(model, "modules"):
            raise UsageError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
        self._model, self._depth = model, depth
        self._patterns = (modules,) if isinstance(modules, str) else tuple(modules)
        rank = os.environ.get("RANK", "0")
        self._history = None if history is None else _of_rank(Path(history), rank)
        self._summarize = summarize if show and rank == "0" else None
        self._file = RowFile(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - as long as the timer
        self._every, self._driver = every, driver
        self._measuring: Measuring | None = None
        self._members: set[int] = set()
        self._undo: list[Callable[[], None]] = []
        self._summary: Mapping[str, Any] = {}
        self._counts: Mapping[str, int] = {}
        self._ended = False

    def __enter__(self) -> Self:
        if self._undo or self._ended:
            raise UsageError("this timer has been used; make another one")
        self._check_history()
        if module_times.is_measuring():
            # Under `tetrace record --collector events`, say: the script must run all the same.
            process.warn("a timer measures nothing while modules are measured in this process already")
            return self
        try:
            self._install()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        ran = steps.current()
        self._restore()
        self._ended = True
        if self._measuring is None:
            return
        self._summary, self._counts = _C.timing_summary(), _C.timing_counts()
        with process.guarded("writing the history of modules' times"):
            if self._history is not None:
                self.write(self._history)
        if self._summarize is not None and sys.stderr is not None:
            with process.guarded("showing modules' times"):
                color = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
                width = shutil.get_terminal_size((_WIDTH, 45)).columns
                print(self._summarize(self.columns(), self.notes(ran), width, color), end="", file=sys.stderr)  # noqa: T201

    def _install(self) -> None:
        """What is not there already, because a recording runs in this process."""
        if not ranges.is_on():
            ranges.open(None)
            self._undo.append(ranges.close)
        if not steps.is_following():
            self._undo.append(steps.install())
            steps.begin(0)
        alone = not modules.is_installed()
        if alone:
            observing = autograd.can_observe()
            self._undo.append(optimizer.install())
            tag = None if observing else autograd_hooks.tag
            self._undo.append(modules.install(tag=tag, keep=self._is_wanted, model=self._model))
            self._undo.append(autograd.install(observing))
        self._measuring = Measuring(
            self._every, self._file.append, wanted=self._is_wanted, driver=self._driver, alone=alone
        )
        self._undo.append(self._measuring.install())

    def _restore(self) -> None:
        while self._undo:
            with process.guarded("taking a patch out"):
                self._undo.pop()()

    def _is_wanted(self, module: Any, path: str) -> bool:
        if id(module) not in self._members:
            self._members = {id(member) for member in self._model.modules()}
        depth = 0 if module is self._model else path.count(".") + 1
        is_deep = self._depth is not None and depth > self._depth
        return (
            id(module) in self._members
            and not is_deep
            and any(fnmatch.fnmatchcase(path, pattern) for pattern in self._patterns)
        )

    def columns(self) -> dict[str, Any]:
        """The table's columns as lists, a row a module and phase: the longest first."""
        summary = self._summary if self._ended or self._measuring is None else _C.timing_summary()
        rows = [
            self._row(dict(zip(summary, values, strict=True)))
            for values in zip(*map(list, summary.values()), strict=True)
        ]
        rows.sort(key=lambda row: (row["module"] != module_times.STEP, -row["stream_elapsed_ns"]))
        names = ("module", "phase", "steps", "partial_steps", "count", "stream_elapsed_ns", *_LENGTHS)
        return {name: [row[name] for row in rows] for name in names}

    def _row(self, one: Mapping[str, Any]) -> dict[str, Any]:
        module, phase = module_times.meaning(int(one["site"]))
        numbers = {name: int(one[name]) for name in ("steps", "partial_steps", "count", *_LENGTHS[1:])}
        mean = int(one["sum_ns"]) // max(numbers["steps"], 1)
        return {"module": module, "phase": phase, "stream_elapsed_ns": int(one["sum_ns"]), "mean_ns": mean, **numbers}

    def table(self) -> pd.DataFrame:
        """What was measured so far, a row a module and phase.

        `steps` is how many sampled steps count, `partial_steps` how many do not because a call could not be measured,
        `count` the calls in those that do, and `stream_elapsed_ns` their sum; `mean_ns`, `median_ns` and `p95_ns` (both
        within 1.6%), `min_ns` and `max_ns` are of the sums of single steps.
        """
        import pandas as pd

        return pd.DataFrame(self.columns())

    def history(self) -> pd.DataFrame:
        """A row a module, phase and sampled step: `step`, `module`, `phase`, `count`, `skipped`, `stream_elapsed_ns`."""
        import pandas as pd
        import pyarrow as pa

        parts = [pa.table(part).to_pandas() for part in self._parts()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_HISTORY))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the history to the Parquet file `path`. Raises `UsageError` where that cannot be done."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"text": pa.dictionary(pa.int32(), pa.string()), "int64": pa.int64(), "int32": pa.int32()}
        schema = pa.schema([pa.field(name, types[kind], nullable=False) for name, kind in _HISTORY.items()])
        try:
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for part in self._parts():
                    writer.write_table(pa.table(part).cast(schema))
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror or error}); choose another file") from error

    def notes(self, ran: int | None = None) -> list[str]:
        """What a reader of the table must know: how many steps were measured, and which calls were not."""
        if self._measuring is None:
            return ["nothing was measured: the timer was not entered, or another one ran"]
        counts = self._counts if self._ended else _C.timing_counts()
        number = steps.current() if ran is None else ran
        said: list[str] = []
        if not self._measuring.opened:
            said.append("nothing was measured: CUDA was not in use")
        elif not self._measuring.sampled:
            said.append(f"no step was measured: {number} ended, and the first to be is step {self._every}")
        return [*said, *module_times.notes(counts)]

    def _parts(self) -> Iterator[dict[str, Any]]:
        import numpy as np
        import pyarrow as pa

        for rows in self._file.read():
            sites, codes = np.unique(rows["site"], return_inverse=True)
            meanings = [module_times.meaning(site) for site in sites.tolist()]
            texts = {
                name: pa.array([one[i] for one in meanings]).take(pa.array(codes)).dictionary_encode()
                for i, name in enumerate(("module", "phase"))
            }
            yield {name: texts[name] if name in texts else np.ascontiguousarray(rows[name]) for name in _HISTORY}

    def _check_history(self) -> None:
        folder = None if self._history is None else self._history.absolute().parent
        if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UsageError(f"history={str(self._history)!r}: {folder} cannot be written to; choose another folder")


_LENGTHS = ("mean_ns", "median_ns", "p95_ns", "min_ns", "max_ns")
_HISTORY = {
    "step": "int32", "module": "text", "phase": "text", "count": "int32", "skipped": "int32", "stream_elapsed_ns": "int64",
}  # fmt: skip


def _of_rank(path: Path, rank: str) -> Path:
    """The file of a rank: that of rank 0 has the name that was given."""
    return path if rank == "0" else path.with_name(f"{path.stem}-rank{rank}{path.suffix}")
