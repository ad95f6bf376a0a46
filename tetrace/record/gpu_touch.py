"""Makes the GPU set one megabyte, by the driver alone: what a trial recording records. Run as a script.

Exit code 0 when the GPU did it, 3 when there is no driver or no GPU, 4 when a call of the driver failed.
"""

from __future__ import annotations

import ctypes
import sys

_BYTES = 1 << 20


def touch() -> int:
    """The exit code."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 3
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return 3
    # Each call returns 0 on success; `or` stops at the first that does not.
    failed = (
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or cuda.cuCtxSetCurrent(context)
        or cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(_BYTES))
        or cuda.cuMemsetD8_v2(memory, ctypes.c_ubyte(1), ctypes.c_size_t(_BYTES))
        or cuda.cuCtxSynchronize()
        or cuda.cuMemFree_v2(memory)
        or cuda.cuDevicePrimaryCtxRelease_v2(device)
    )
    return 4 if failed else 0


if __name__ == "__main__":
    sys.exit(touch())
