"""Losses of a running workload. torch is given, not imported: only `tetrace/study/worker.py` does that here."""

from __future__ import annotations

from typing import Any


class UnreadLosses:
    """What steps returned, unread: copied to the host only after a round."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._kept: list[Any] = []
        # A step that writes its loss into the same memory each time (CUDA graphs) would overwrite what was kept: copied
        # while warming up, and after that only where two steps in a row were seen to do so.
        self._copy, self._reused, self._last = True, False, None

    def keep(self, loss: Any) -> None:
        """Keep the loss of one step; None is none."""
        if loss is None:
            return
        loss = loss.detach() if isinstance(loss, self._torch.Tensor) else self._torch.tensor(float(loss))
        if self._copy:
            self._reused = self._reused or (self._last is not None and loss.data_ptr() == self._last.data_ptr())
            # Held until the next one is there: memory that is free again may be given to it.
            self._last = loss
        self._kept.append(loss.clone() if self._copy else loss)

    def warmed_up(self) -> None:
        """From here on losses are copied only where that is necessary."""
        self._copy, self._last = self._reused, None

    def read(self) -> list[float]:
        """The values, in order, then starts anew."""
        kept, self._kept = self._kept, []
        return (
            [float(loss) for loss in self._torch.stack([loss.float().mean() for loss in kept]).tolist()] if kept else []
        )
