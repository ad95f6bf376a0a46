"""What tetrace does in C++ (csrc/): interval arithmetic over the columns of a trace, the names of ranges, and the ranges
of a running script.

A row is a half-open interval [start, end) in a group (a thread, a device, a process). Times are integer
nanoseconds; groups are any int32. A row of no length is allowed and never open.

**Order** is by group, then start, then the longer first, then as given (`order`). **Innermost** at a time t, of the
rows with start <= t < end, is the one that comes last in order: the latest to start. Rows of a group may overlap
without nesting; the definition holds for those too.

Arrays are taken without a copy: numpy, one-dimensional, contiguous, of exactly the dtype named. All functions release
the GIL, and none changes its input. `ValueError`, with the values found, when an array is of another kind, when
columns of one table differ in length, when a row ends before it starts, and when rows are not sorted as asked for.
n, m, w, a and b stand for numbers of rows. The work is linear in them where the input is sorted.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

import numpy as np
import numpy.typing as npt

_Int32 = npt.NDArray[np.int32]
_Int64 = npt.NDArray[np.int64]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

def build_info() -> dict[str, Any]:
    """What this extension was built with.

    `system` and `compiler` with its version, texts; `nvtx`, whether ranges reach NVTX; `collector`, whether
    `libtetrace_collector.so` was built with it, and in `no_collector` why not: `platform` or `option`
    (TETRACE_COLLECTOR=OFF), empty where it was; `cuda_headers`, the CUDA_VERSION (13000) of the headers that its
    layouts were compared with, 0 where there were none; `fp8`, whether the FP8 kernels are in it, and in `no_fp8` why
    not: `platform`, `option` (TETRACE_FP8=OFF) or `nvcc` (none was found).
    """

def order(group: _Int32, start: _Int64, end: _Int64) -> _Int32:
    """The stable permutation, shape (n,), that puts rows in order. Already sorted groups are not sorted again."""

def nest(group: _Int32, start: _Int64, end: _Int64) -> _Int32:
    """For each row the innermost earlier row open at its start, or -1. Shape (n,).

    Rows must be in order. A row that outlives its parent keeps that parent.
    """

def innermost(
    group: _Int32, start: _Int64, end: _Int64, parent: _Int32, query_group: _Int32, query_time: _Int64
) -> _Int32:
    """For each query the innermost row at `query_time` (ns) in `query_group`, or -1. Shape (m,).

    Rows must be in order with `parent` from `nest`; queries sorted by group, then time.
    """

def inherit(parent: _Int32, own: _Int32) -> _Int32:
    """For each row its own value if that is >= 0, else that of its nearest ancestor which has one, else -1.

    Shape (n,). Parents come before their children, as those from `nest` do; `ValueError` otherwise.
    """

def segments(group: _Int32, start: _Int64, end: _Int64, parent: _Int32) -> tuple[_Int32, _Int64, _Int64, _Int32]:
    """Each group's time cut where the innermost row changes: (group, start, end, row), sorted and disjoint.

    Time without a row is left out; adjacent pieces of the same row are one. Rows must be in order with `parent` from
    `nest`. At most 2n pieces.
    """

def merge(group: _Int32, start: _Int64, end: _Int64) -> tuple[_Int32, _Int64, _Int64]:
    """The union of each group's rows, sorted by group and start. Rows may come in any order.

    Intervals that touch are one; those of no length are dropped.
    """

def subtract(
    group_a: _Int32, start_a: _Int64, end_a: _Int64, group_b: _Int32, start_b: _Int64, end_b: _Int64
) -> tuple[_Int32, _Int64, _Int64]:
    """The union of a's rows without the union of b's, sorted by group and start. Rows may come in any order."""

def covered(
    group: _Int32, start: _Int64, end: _Int64, window_group: _Int32, window_start: _Int64, window_end: _Int64
) -> _Int64:
    """For each window the ns of the union of its group's rows inside it. Shape (w,).

    Rows and windows may come in any order, and windows may overlap.
    """

def overlaps(
    group_a: _Int32, start_a: _Int64, end_a: _Int64, group_b: _Int32, start_b: _Int64, end_b: _Int64
) -> tuple[_Int32, _Int32, _Int64]:
    """All pairs of an a and a b of one group that share time: (index_a, index_b, ns shared), sorted by both indices.

    Both sorted by group and start; b's rows share no time with each other (those of `segments` and `merge` do not),
    a's may.
    """

def distinct(values: _Int64) -> tuple[_Int64, _Int32]:
    """The distinct values, shape (k,), ascending, and the place of each row's value among them, shape (n,)."""

def sums(codes: _Int32, groups: int, values: _Int64) -> _Int64:
    """Sum of `values`, shape (n,), in each of `groups` groups; `ValueError` for a code outside [0, groups)."""

def encode_names(
    offsets: npt.NDArray[np.int32] | npt.NDArray[np.int64], data: npt.NDArray[np.uint8]
) -> tuple[_Int32, _Int64, list[bytes]]:
    """Dictionary-encodes texts of ranges: (codes (n,), autograd sequence numbers (n,) or -1, words by code).

    Text i is `data[offsets[i]:offsets[i + 1]]`, so `offsets` has shape (n + 1,), as Arrow's strings have it. What
    PyTorch's emit_nvtx writes after an operator's name (`, seq = 12, op_id = 40, sizes = [[2, 3]], input_op_ids =
    [(38,0)]`, torch/csrc/profiler/util.cpp) is not part of the word; other texts are words as they are. Words are in
    order of first use, and need not be UTF-8. `ValueError` when offsets descend or leave the data.
    """

def demangle(names: list[str]) -> list[str]:
    """Names of kernels as their source says them; what is no mangled name of C++ comes back as it is."""

def collector_rows() -> dict[str, tuple[int, int, list[tuple[str, int, str]]]]:
    """The layouts of csrc/collector/rows.h by name: (kind of frame, bytes, [(field, offset, numpy's word for its type)]).

    The headers of the file and of a frame are there as `file` and `frame`, of kind 0.
    """

class KinetoScanner:
    """Reads a PyTorch profiler JSON file from pieces of any size; keeps of it one event and the columns.

    For one thread at a time; `feed` and the end of the scan release the GIL.
    """

    def __init__(self) -> None: ...
    def feed(self, piece: bytes | bytearray | memoryview) -> None:
        """The next piece of the file. `ValueError`, with the byte at which it is, when the text cannot be a trace."""

    def finish(self) -> dict[str, Any]:
        """What was found, by the fields of `tetrace.sources.kineto_file.Scan`; once, after the last piece.

        Numbers that the file gives in microseconds with decimals are integer nanoseconds, rounded half up.
        `ValueError` when the text does not end where a trace ends.
        """

# Ranges of the running script (csrc/ranges). A site is a number that `site` returned; a thread has a stack of open
# ranges and a file of rows. While ranges are off, functions that open or close them do nothing. A forked child has them
# off, whatever its parent does.

def ranges_open(folder: str, bytes_per_thread: int) -> None:
    """Switches ranges on; each thread makes `ranges-<tid>.bin` in `folder` when it opens its first.

    A file takes at most `bytes_per_thread` (8192 or more), then new rows replace the oldest. Where a file of that name
    is there already, `-1` and so on is put before the suffix. What was open is closed first. An empty `folder` keeps no
    rows. `ValueError` when it is not a folder that can be written to.
    """

def ranges_close() -> None:
    """Switches ranges off; those still open stay without an end. Files are cut to what was used."""

def ranges_on() -> bool:
    """Whether ranges are on in this process."""

def site(name: str, category: int, kind: int) -> int:
    """A new site, also for a name that is known. `category` is NVTX's.

    `kind`: 1 for a module's forward, also when it runs again in the backward, 2 for its backward, 0 for all else;
    `ValueError` for another.
    """

def push(site: int) -> None:
    """Opens a range on this thread. `ValueError` when there is no such site."""

def pop() -> None:
    """Closes this thread's innermost range; nothing when none is open."""

def depth() -> int:
    """How many ranges are open on this thread."""

def unwind(depth: int) -> None:
    """Closes this thread's ranges until `depth` are open."""

def current_module() -> int:
    """The site of kind 1 or 2 that is innermost on this thread, or -1."""

def start(site: int) -> int:
    """Opens a range that `end` closes, on this thread or another; 0 when ranges are off or there is no such site."""

def end(handle: int) -> None:
    """Closes a range that `start` opened; nothing when it is closed already."""

def set_step(step: int) -> None:
    """The number that ranges opened from here on carry, on all threads; -1 before the first step."""

@final
class annotate:
    """A range of this name, as a context manager or a decorator. `TypeError` when `name` is no text.

    Does nothing while ranges are off. One object may be entered again while it is open, and on several threads.
    """

    @property
    def name(self) -> str:
        """As given."""

    def __init__(self, name: str) -> None: ...
    def __enter__(self) -> annotate: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def __call__(self, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """`function` with a range around each call; coroutines and generators as they are."""

def only_in_ring(site: int, only: bool) -> None:
    """Whether ranges of a site are kept from NVTX, where a call costs several times a row of the ring."""

def set_backward_site(forward_site: int, backward_site: int) -> None:
    """Which site the backward of a module's nodes is put under. `ValueError` when there is no such forward site."""

def set_loss_site(site: int) -> None:
    """Which site the backward of nodes that were made outside every module is put under; -1 for none."""

def ranged_gemm(plain: Callable[..., Any], resolve: Callable[[tuple[Any, ...], dict[str, Any]], int]) -> Any:
    """A built-in function that calls `plain`, Transformer Engine's `generic_gemm`, inside a range.

    The site of a call that was not seen before is `resolve(args, kwargs)`, negative for no range. Calls are told apart
    by the module that runs, the layout, what is given, and the classes and numbers of elements of A and B.
    """

def watched_gemm(plain: Callable[..., Any], observe: Callable[[tuple[Any, ...], Any], None]) -> Any:
    """A built-in function that calls `plain`, `generic_gemm`, and while steps are watched `observe(args, result)` after calls
    that were given a quantizer for the output."""

def ranged_quantize(
    plain: Callable[..., Any],
    resolve: Callable[[tuple[Any, ...], dict[str, Any]], int | tuple[int, int]],
    place: int,
    known: dict[int, Any],
    running: list[Any],
) -> Any:
    """A built-in function that calls `plain`, whose positional argument `place` is a quantizer, inside a range.

    As `ranged_gemm`; calls are told apart by the quantizer too, remembered only where its id is in `known`, and by the
    first argument's dtype. While `running` holds something, `resolve` is asked each time. None for a quantizer: no
    range. `resolve` may return a number of `watch_add` with the site: the call's tensor is observed after it.
    `ValueError` for a negative `place`.
    """

def forget_all_calls() -> None:
    """Forgets all calls that quantize: each is asked about again."""

def forget_calls(quantizer: int) -> None:
    """Forgets the sites of calls with the quantizer of this id: it is gone, or is for another tensor now."""

def forget_transitions() -> None:
    """Forgets which modules made which nodes of autograd's graph so far: their backward belongs to none."""

def autograd_capsule() -> object:
    """C functions for an observer of autograd: the struct `Autograd` of csrc/ranges/autograd.h."""

def process_folder(recording: str) -> str:
    """The folder of this program in a recording, which is made at the first call: `process-PID` in the folder
    `recording`, or `process-PID-1` and so on where another program has that. The collector's library finds the same.
    `OSError` when it cannot be made.
    """

def read_ring(path: str) -> dict[str, Any]:
    """The rows of one thread's file, by start; also of one that is still written, or was cut off anywhere.

    Of the thread: `process` and `thread` as the kernel numbers them (-1 when cut within the header), `name`, `dropped`
    (rows replaced by newer ones), `closed` (False when the process was killed). Arrays of shape (n,): `start_ns` and
    `end_ns` (wall clock; 0 for a range that was never closed), `value` (sequence number of the autograd node that it was
    opened for, or -1), all int64; `site`, `step`, `depth` (ranges open around it; -1 if opened by `start`), int32.
    `ValueError` when it cannot be read, is another kind of file, or of another version.
    """

# Times of ranges on CUDA streams (csrc/timing), by events that are recorded where ranges open and close and read once the
# device has come so far. Nothing here waits for a device but `timing_close`, and nothing is recorded into a stream that
# is captured into a graph. One session at a time in a process; a forked child has none.

def timing_open(
    most_events: int,
    step_site: int,
    get_device: Callable[[], int],
    get_stream: Callable[[int], int],
    source: int = 0,
    library: str = "libcuda.so.1",
) -> None:
    """Begins a session, with at most `most_events` events a device; what does not fit is not measured, and counted.

    `step_site` is the site of the row that is about a whole step. `get_device()` is the calling thread's current device
    and `get_stream(device)` the handle of its current stream there. `source`, where it is not 0, is the address of a
    function `int (int32_t* device, void** stream)` that tells the same without Python, of the device that it is given or
    of the current one where that is -1, or returns 0. `ValueError` when
    `library` is no CUDA driver.
    """

def timing_close(wait_s: float) -> None:
    """Ends the session, after at most `wait_s` seconds in which the device may come to the end of what was launched."""

def timing_reset() -> None:
    """Ends the session, and forgets what was measured and what is to be."""

def timing_measure(site: int, around: int, measured: bool, device: int = -1) -> None:
    """Has ranges of `site` measured, or only passed through on the way from a module to those around it.

    `around`: any site of the module around, or -1. `device`: the one to which a call of the module launches, by its
    number; -1: that of the range around where it has one, else the thread's current one. Of a site of kind 2
    (backward), ranges tell where a thread is: the module and those around it are measured from the first to the last of
    their ranges until `timing_end_backward`.
    """

def timing_step(step: int, sampled: bool) -> int:
    """A step begins, in which ranges are measured if it is `sampled`. Reads what the device has come to.

    Returns how many rows wait to be taken.
    """

def timing_begin_backward() -> None:
    """The calling thread calls autograd's engine."""

def timing_end_backward() -> None:
    """Its call has returned, on whatever threads the backward ran; those of other threads' calls may run on."""

def timing_rows() -> bytes:
    """Rows made since the last call, one a site and sampled step, 24 bytes each: `site`, `step`, `count` (calls that were
    measured), `skipped` (that could not be), all int32, and `stream_elapsed_ns`, their sum, int64.

    A row is made once its step is over and the device has come to its end. At most a million rows wait.
    """

def timing_summary() -> dict[str, Any]:
    """What all rows of a site have in common, arrays of shape (sites,): `site`, `steps`, `partial_steps` (rows with
    skipped calls, which are left out of the rest), `count`, `sum_ns`, `min_ns`, `max_ns`, `median_ns` and `p95_ns` (both
    within 1.6 percent). Those of the last session until the next one begins.
    """

def timing_counts() -> dict[str, int]:
    """Calls by what became of them: `measured`, `pending`, `crossed` (ended on another stream), `captured` (into a CUDA
    graph), `no_room` (no free event), `failed` (the driver refused, last with `last_error`), `unclear` (of one
    of several backwards at once, it is not known which), `unfinished` (at the end of the session); `events` that were
    made, and `rows_dropped` because nobody took them.
    """

# Statistics of tensors for FP8 (csrc/fp8): one launch a call, a row of 128 bytes a tensor (tetrace/fp8/rows.py), in a
# ring on the device that is copied out once a step. A tensor is a tuple `(data, rows, columns, row_stride, site, scale,
# scale_stride)`: addresses on the device (`scale` may be 0), strides in elements. `dtype` 0 bf16, 1 fp16, 2 fp32, 3 E4M3
# codes, 4 E5M2 codes; `format` 0 none, 1 E4M3, 2 E5M2; `layout` of the scales 0 one for the tensor, 1 for 1x128, 2 for
# 128x128, 3 for 1x32 (E8M0), as csrc/fp8/row.h says; `flags` 1 with a histogram, 2 `scale` is the inverse (always, for
# blocks), 4 only some rows of the tensor are given.

def fp8_row() -> tuple[int, list[tuple[str, int, str]]]:
    """The layout of a row: (bytes, [(field, offset, numpy's word for its type)])."""

def fp8_open(device: int, rows: int, histograms: bool = False, library: str = "libcuda.so.1") -> None:
    """Makes a ring of so many rows on the device, whose primary context must be active.

    `ValueError`, with the way out, where the kernels were left out of the build or cannot be loaded, and when there is
    one already.
    """

def fp8_rows_of_sample(rows: int, columns: int, every: int) -> int:
    """How many rows of a matrix are looked at where every n-th is: all of one that is small or narrow."""

def fp8_is_open(device: int) -> bool:
    """Whether there is a ring on the device; not in a forked child."""

def fp8_close(device: int) -> None:
    """Waits for what was launched, and gives the ring back. What was not taken is lost."""

def fp8_observe(
    device: int,
    stream: int,
    tensors: list[tuple[int, int, int, int, int, int, int]],
    dtype: int,
    step: int,
    format: int = 0,  # noqa: A002
    layout: int = 0,
    flags: int = 0,
) -> int:
    """The order of the first of these tensors, those of the others follow; -1 where the call was skipped, and counted.

    Launches on `stream` and returns: tensors and scales must stay what they are until the stream has come so far.
    Skipped is a call while the stream is captured, when the ring is full, and when the driver refuses. `ValueError`
    for arguments that make no sense.
    """

def fp8_end_step(device: int) -> None:
    """Begins the copy of the rows observed since the last time, behind their launches, on a stream of its own."""

def fp8_take(device: int) -> tuple[bytes, bytes]:
    """What the device is through with since the last time, without waiting: rows in order, and packed the bins that are
    not empty of those with a histogram."""

def fp8_unpack_bins(packed: bytes, is_cut: bool = False) -> bytes:
    """Bins that are not empty, 16 bytes each: order int64, bin int32, count uint32.

    `packed`: little-endian words, by stretches of neighbouring bins: the order (two, the lower first), the first bin with
    the number of bins in the upper half, their counts. `is_cut`: its end is missing; so are the bins of the order there.
    """

def fp8_wait(device: int) -> None:
    """Waits until all rows whose copy was begun can be taken."""

def fp8_skipped(device: int) -> dict[str, int]:
    """Tensors that were not observed, by why: `captured`, `full`, `failed` (the driver's error last is `last_error`)."""

def fp8_inspect(
    device: int,
    stream: int,
    tensors: list[tuple[int, int, int, int, int, int, int]],
    dtype: int,
    format: int = 0,  # noqa: A002
    layout: int = 0,
    flags: int = 0,
    library: str = "libcuda.so.1",
) -> tuple[bytes, bytes]:
    """Rows and bins of these tensors at once, as `fp8_take` gives them: allocates, launches, and waits for the stream.

    `ValueError` as `fp8_open` and `fp8_observe`, and with the driver's word where it refuses.
    """

def timing_streams(get_device: Callable[[], int], get_stream: Callable[[int], int], source: int = 0) -> None:
    """Who says on which device and stream a thread launches, as `timing_open` takes them."""

# What a recording observes of FP8 (csrc/watch): calls that quantize and tensors that are checked, on the calling thread's
# stream. `format`, `layout` and `dtype` are those of `fp8_observe`.

def watch_begin(
    slow: Callable[[int, tuple[Any, ...], dict[str, Any] | None, Any], object] | None,
    ask: Callable[[int], int | None] | None,
    check: Callable[[int, Any], object] | None,
    tensor: type,
    parameter: type,
    dtypes: list[tuple[Any, int]],
    histogram: bool,
    rows: int = 1,
) -> None:
    """Who is asked: `slow(number, args, named, result)` about calls that cannot be observed here, `ask(site)` for the site
    of the rows of a module's output, `check(site, tensor)` about tensors that cannot be. `dtypes` are torch's with their
    numbers. With `histogram`, calls that want one get it. Of tensors that are quantized, every `rows`-th row is looked at
    where `fp8_rows_of_sample` leaves some out.
    """

def watch_end() -> None:
    """Closes all devices and forgets everything but the counts."""

def watch_device(device: int, rows: int, histograms: bool, library: str = "libcuda.so.1") -> None:
    """Opens a device, once. `ValueError` as `fp8_open`."""

def watch_current_device() -> int:
    """The device on which this thread would launch; -1 where it uses none."""

def watch_switch(on: bool) -> None:
    """Observes from here on, or does not."""

def watch_is_on() -> bool:
    """Whether it observes."""

def watch_add() -> int:
    """The number of a new kind of calls, which `slow` is asked about until `watch_learn` says otherwise."""

def watch_learn(
    number: int,
    how: str,
    site: int = -1,
    dtype: int = 0,
    format: int = 0,  # noqa: A002
    layout: int = 0,
    inverse: bool = False,
    histogram: bool = True,
    result: int = -1,
    data: str = "",
    scale: str = "",
    scale_of: str = "",
    columns: int = 0,
    width: int = 0,
    scale_stride: int = 0,
    signs: tuple[tuple[str, Any], ...] = (),
) -> None:
    """How calls of this kind are observed: `device`, `python` (by `slow`) or by `nobody`.

    `result` is the place of the quantized tensor in what they return, -1 where it is that; `data` its attribute with the
    codes, where those are observed and not the first argument; `scale` the attribute of `scale_of` (`quantizer`,
    `result`, or nothing) with the scale, which is the `inverse` one or not. `columns` of the matrix, 0 where it has one
    scale; `width` is the tensor's last dimension, of whose rows some may be left out. `signs` are attributes of the
    quantized tensor and what they must be: a call where one is not goes to `slow`.
    `ValueError` for a number or a word that is none.
    """

def watch_observe(
    tensors: list[tuple[int, ...]],
    dtype: int,
    format: int = 0,  # noqa: A002
    layout: int = 0,
    inverse: bool = False,
    histogram: bool = True,
) -> int:
    """Observes tensors, given as to `fp8_observe`, in one launch. The order of the first; negative where there was none."""

def watch_output(site: int, result: object) -> None:
    """Checks the first tensor of what the module of this site returned, unless it only passes on what was checked."""

def watch_check(sites: list[int], tensors: list[Any]) -> None:
    """Checks tensors, those of one number type in one launch; `sites` are those of their rows."""

def watch_parameters(sites: list[int], parameters: list[Any], of_gradients: bool) -> list[int]:
    """Checks parameters or their gradients as far as Python is not needed; returns the places of the others. Negative
    sites are passed by."""

def watch_reader(address: int) -> None:
    """Has tensors read by a function of the observer (observer.address); by 0 through their methods."""

def watch_order() -> int:
    """The number of one more observation, made elsewhere."""

def watch_turn() -> tuple[bytes, bytes]:
    """`watch_take`, and the copies of what was observed since the last time begin."""

def watch_take() -> tuple[bytes, bytes]:
    """What devices are through with, as `fp8_take`; orders are those of the process."""

def watch_counts() -> dict[str, Any]:
    """Tensors that were `observed` and rows that were `taken` of them; tensors that were not, as `fp8_skipped`, and
    `elsewhere` for those given to `watch_observe` on a thread that uses no open device; in `refusal` why a call made no
    sense, empty where none did."""

def watch_has_failed() -> bool:
    """Whether `watch_counts` has something in `failed`, `last_error` or `refusal`."""
