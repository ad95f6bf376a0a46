"""Uses the CUDA driver by itself, without torch: kernels, copies, waits, two streams and a graph, so that the process has no
libcupti but the collector's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

ROUNDS, REPLAYS = 5, 3
COUNT = 1 << 20
KERNEL = "_Z9add_valuePfif"
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.extern .shared .align 4 .b8 unused[];
.visible .entry _Z9add_valuePfif(.param .u64 data, .param .u32 count, .param .f32 value)
{
    .reg .pred %p;
    .reg .b32 %r<5>;
    .reg .f32 %f<3>;
    .reg .b64 %a<4>;
    ld.param.u64 %a1, [data];
    ld.param.u32 %r1, [count];
    ld.param.f32 %f1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra end;
    cvta.to.global.u64 %a2, %a1;
    mul.wide.u32 %a3, %r2, 4;
    add.u64 %a2, %a2, %a3;
    ld.global.f32 %f2, [%a2];
    add.f32 %f2, %f2, %f1;
    st.global.f32 [%a2], %f2;
end:
    ret;
}
\0"""


@cache
def cuda() -> ctypes.CDLL:
    """The driver; the test that imports this is collected where there is none."""
    return ctypes.CDLL("libcuda.so.1")


def call(name: str, *arguments: Any) -> None:
    result = getattr(cuda(), name)(*arguments)
    assert result == 0, (name, result)


def made(name: str, *arguments: Any, kind: Callable[[], Any] = ctypes.c_void_p) -> Any:
    """What a function writes into its first argument."""
    handle = kind()
    call(name, ctypes.byref(handle), *arguments)
    return handle


def launch(function: Any, data: Any, stream: Any) -> None:
    values = (data, ctypes.c_uint(COUNT), ctypes.c_float(1.0))
    pointers = (ctypes.c_void_p * 3)(*(ctypes.addressof(value) for value in values))
    call("cuLaunchKernel", function, (COUNT + 255) // 256, 1, 1, 256, 1, 1, 512, stream, pointers, None)


def main() -> None:
    call("cuInit", 0)
    device = made("cuDeviceGet", 0, kind=ctypes.c_int)
    call("cuCtxSetCurrent", made("cuDevicePrimaryCtxRetain", device))
    function = made("cuModuleGetFunction", made("cuModuleLoadData", PTX), KERNEL.encode())
    one, other = (made("cuMemAlloc_v2", ctypes.c_size_t(4 * COUNT), kind=ctypes.c_uint64) for _ in range(2))
    first, second = (made("cuStreamCreate", 1) for _ in range(2))
    ready = made("cuEventCreate", 2)
    host = (ctypes.c_float * COUNT)()
    size = ctypes.c_size_t(4 * COUNT)
    for _ in range(ROUNDS):
        call("cuMemcpyHtoDAsync_v2", one, host, size, first)
        call("cuMemsetD32Async", other, 0, ctypes.c_size_t(COUNT), second)
        launch(function, one, first)
        call("cuEventRecord", ready, first)
        call("cuStreamWaitEvent", second, ready, 0)
        launch(function, one, second)
        call("cuMemcpyDtoDAsync_v2", other, one, size, second)
        call("cuMemcpyDtoHAsync_v2", host, other, size, second)
        call("cuStreamSynchronize", second)
    assert list(host[:3]) == [2.0 * ROUNDS] * 3
    call("cuStreamBeginCapture_v2", first, 1)
    call("cuMemsetD32Async", one, 0, ctypes.c_size_t(COUNT), first)
    launch(function, one, first)
    call("cuMemcpyDtoDAsync_v2", other, one, size, first)
    graph = ctypes.c_void_p()
    call("cuStreamEndCapture", first, ctypes.byref(graph))
    replayed = made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
    for _ in range(REPLAYS):
        call("cuGraphLaunch", replayed, first)
    call("cuCtxSynchronize")


if __name__ == "__main__":
    main()
