"""What the driver says of a GPU while a round runs: clock, power, temperature, and what slows it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tetrace.record import nvidia

if TYPE_CHECKING:
    from typing_extensions import Self

_EVERY_S = 0.1
# Power and temperature of a GPU that has just become busy are still those of an idle one.
_FIRST_S = 0.03


class Clocks:
    """Samples the GPU at `bus_id` (`bus:device`) while it is open, from a thread of its own; "" samples nothing."""

    def __init__(self, bus_id: str) -> None:
        self._bus_id = bus_id
        self._samples: list[nvidia.Gpu] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self._bus_id:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._bus_id:
            self._thread.join()

    def summary(self) -> dict[str, Any]:
        """The fields of a `Round` that are known: mean clock and power, highest temperature, everything that slowed it."""
        return summary(self._samples)

    def _sample(self) -> None:
        wait = _FIRST_S
        while not self._over.wait(wait):
            wait = _EVERY_S
            gpu = next((gpu for gpu in nvidia.read().gpus if f":{self._bus_id}." in gpu.bus_id), None)
            if gpu is None:
                return
            self._samples.append(gpu)


def summary(samples: list[nvidia.Gpu]) -> dict[str, Any]:
    """The fields of a `Round` from samples of one GPU."""
    clocks = [gpu.sm_mhz for gpu in samples if gpu.sm_mhz is not None]
    powers = [gpu.power_mw / 1000 for gpu in samples if gpu.power_mw is not None]
    temperatures = [gpu.temperature_c for gpu in samples if gpu.temperature_c is not None]
    return {
        "sm_mhz": sum(clocks) / len(clocks) if clocks else None,
        "power_w": sum(powers) / len(powers) if powers else None,
        "temperature_c": max(temperatures) if temperatures else None,
        "throttled": tuple(dict.fromkeys(reason for gpu in samples for reason in gpu.slowed)),
    }
