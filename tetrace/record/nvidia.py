"""What the NVIDIA driver says of its GPUs, through NVML and without CUDA: asking starts no context on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96
# nvmlClockType_t and nvmlTemperatureSensors_t
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_SENSOR_GPU = 0
_PROHIBITED = 2
_MOST_PROCESSES = 64
# nvmlClocksThrottleReasons: what slows a GPU beyond its idling and the limits that somebody set.
_SLOWED = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "temperature",
    0x40: "hardware temperature limit",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it; figures that the driver does not tell are None."""

    index: int
    name: str
    bus_id: str = ""
    capability: str = ""
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    sm_mhz: int | None = None
    sm_mhz_max: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    slowed: tuple[str, ...] = ()
    persistence: bool | None = None
    mig: bool = False
    prohibited: bool = False
    # Process ids on this GPU; those of other containers are not always told.
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Driver:
    """The driver's version, the newest CUDA it runs (`12.8`), its GPUs, or in `error` why none of that is known."""

    version: str = ""
    cuda: str = ""
    gpus: tuple[Gpu, ...] = ()
    error: str = ""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Pci(ctypes.Structure):
    _fields_ = (
        ("legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


class _Nvml:
    """Calls by name. A function that this driver does not have, or that fails, gives None."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> bool:
        """Whether the call succeeded."""
        function = getattr(self._library, name, None)
        return function is not None and function(*arguments) == 0

    def number(self, name: str, *arguments: Any, kind: type[Any] = ctypes.c_uint) -> int | None:
        """A figure that the call writes through its last argument."""
        value = kind()
        return int(value.value) if self.call(name, *arguments, ctypes.byref(value)) else None

    def text(self, name: str, *arguments: Any) -> str:
        """A text that the call writes."""
        value = ctypes.create_string_buffer(_TEXT_BYTES)
        found = self.call(name, *arguments, value, ctypes.c_uint(_TEXT_BYTES))
        return value.value.decode("utf-8", "replace") if found else ""


def read() -> Driver:
    """The driver and its GPUs now. Never raises: `error` says what is missing."""
    try:
        with _opened() as nvml:
            count = nvml.number("nvmlDeviceGetCount_v2") or 0
            gpus = tuple(gpu for i in range(count) if (gpu := _gpu(nvml, i)) is not None)
            cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int) or 0
            return Driver(
                version=nvml.text("nvmlSystemGetDriverVersion"),
                cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
                gpus=gpus,
                error="" if gpus else "the driver shows no GPU",
            )
    except OSError as error:
        return Driver(error=str(error))


@contextlib.contextmanager
def _opened() -> Iterator[_Nvml]:
    """NVML, started. Raises OSError where there is none or where it does not start."""
    nvml = _Nvml(ctypes.CDLL(_LIBRARY))
    if not nvml.call("nvmlInit_v2"):
        raise OSError(f"{_LIBRARY} is there and does not start: the driver is not loaded, or does not match it")
    try:
        yield nvml
    finally:
        nvml.call("nvmlShutdown")


def _gpu(nvml: _Nvml, index: int) -> Gpu | None:
    device = ctypes.c_void_p()
    if not nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device)):
        return None
    memory, pci = _Memory(), _Pci()
    nvml.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    nvml.call("nvmlDeviceGetPciInfo_v3", device, ctypes.byref(pci))
    reasons = nvml.number("nvmlDeviceGetCurrentClocksThrottleReasons", device, kind=ctypes.c_ulonglong) or 0
    persistence = nvml.number("nvmlDeviceGetPersistenceMode", device)
    mig, pending = ctypes.c_uint(), ctypes.c_uint()
    nvml.call("nvmlDeviceGetMigMode", device, ctypes.byref(mig), ctypes.byref(pending))
    return Gpu(
        index=index,
        name=nvml.text("nvmlDeviceGetName", device),
        bus_id=pci.bus_id.decode("ascii", "replace").lower(),
        capability=_capability(nvml, device),
        memory_bytes=int(memory.total),
        memory_used_bytes=int(memory.used),
        sm_mhz=nvml.number("nvmlDeviceGetClockInfo", device, _CLOCK_SM),
        sm_mhz_max=nvml.number("nvmlDeviceGetMaxClockInfo", device, _CLOCK_SM),
        memory_mhz=nvml.number("nvmlDeviceGetClockInfo", device, _CLOCK_MEMORY),
        temperature_c=nvml.number("nvmlDeviceGetTemperature", device, _SENSOR_GPU),
        power_mw=nvml.number("nvmlDeviceGetPowerUsage", device),
        power_limit_mw=nvml.number("nvmlDeviceGetEnforcedPowerLimit", device),
        slowed=tuple(said for bit, said in _SLOWED.items() if reasons & bit),
        persistence=None if persistence is None else bool(persistence),
        mig=bool(mig.value),
        prohibited=nvml.number("nvmlDeviceGetComputeMode", device) == _PROHIBITED,
        processes=_processes(nvml, device),
    )


def _capability(nvml: _Nvml, device: ctypes.c_void_p) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    found = nvml.call("nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}" if found else ""


def _processes(nvml: _Nvml, device: ctypes.c_void_p) -> tuple[int, ...]:
    found = (_Process * _MOST_PROCESSES)()
    count = ctypes.c_uint(_MOST_PROCESSES)
    if not nvml.call("nvmlDeviceGetComputeRunningProcesses_v3", device, ctypes.byref(count), found):
        return ()
    return tuple(int(process.pid) for process in found[: count.value])
