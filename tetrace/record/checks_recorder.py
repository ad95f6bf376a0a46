"""Checks of what records: nsys, other profilers in the way, CUPTI, rights, folders, and tetrace's own extension."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tetrace.record.cupti import INJECTIONS
from tetrace.record.finding import Finding, Level, Place, Surroundings
from tetrace.record.probe import CUPTI_HELD, CUPTI_REFUSED
from tetrace.units import byte_count

_GIB = 1 << 30
# What cuptiGetVersion says of 13.0 (sources/cupti_events.py).
_NOTICES_TAKING = 130_000
# The 20 steps recorded by default are 20 to 300 MiB; nsys holds them twice while it imports its own capture.
_LITTLE, _TOO_LITTLE = 5 * _GIB, _GIB // 2
_REMOTE = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "9p", "fuse", "ceph", "afs")
_WAYS_OUT = {
    "profile": "run `nsys status --environment`, and install a current Nsight Systems",
    "import": "this nsys lacks its importer or a library for it (often libdw1, libelf1): install the whole of Nsight "
    "Systems",
    "export": "install Nsight Systems 2023.1 or newer, the whole of it",
    "activity": "install an Nsight Systems as new as the driver; end other profilers of this GPU",
}
# Variables that change what a recording shows, values for which they do, what they do, and what to do about it.
_SPOILERS = (
    ("CUDA_LAUNCH_BLOCKING", ("0", ""), "every launch waits for its kernel: the times are not those of training"),
    ("PYTORCH_NO_CUDA_MEMORY_CACHING", ("0", ""), "every tensor allocates and frees GPU memory, which synchronizes"),
    ("TORCH_DISTRIBUTED_DEBUG", ("OFF", "INFO", ""), "collectives are checked by more collectives"),
    ("KINETO_USE_DAEMON", ("",), "torch's profiler takes CUPTI from the start, which --collector cupti then lacks"),
)


def nsys(around: Surroundings) -> Iterator[Finding]:
    """Whether nsys is found, runs, records this GPU, imports its own capture and exports it."""
    found = around.nsys
    # Without nsys, tetrace's own collector records.
    stops: Level = "fail" if around.collector == "host" else "warn"
    if found.error:
        reason, _, way_out = found.error.partition("; ")
        level: Level = "fail" if around.has_gpu and stops == "fail" else "absent"
        yield Finding(level, "nsys", reason.removeprefix("nsys "), way_out)
    elif found.stage:
        # A report that nsys cannot export to Parquet is exported to SQLite.
        level = "warn" if found.stage == "export" else stops
        said = f"{found.version}: a trial recording failed ({_STAGES[found.stage]}): {found.trial_error}"
        yield Finding(level, "nsys", said, _WAYS_OUT[found.stage])
    else:
        yield Finding("ok", "nsys", f"{found.version}, {_TRIALS[found.trial]}")


_STAGES = {
    "profile": "nothing was captured",
    "import": "nsys could not import its own capture",
    "export": "the report could not be exported to Parquet",
    "activity": "no GPU activity",
}
_TRIALS = {
    "gpu": "recorded and exported a program on this GPU",
    "host": "recorded and exported a program; no GPU to record",
    "": "not tried",
}


def own(around: Surroundings) -> Iterator[Finding]:
    """Whether tetrace's own collector was built, which libcupti it would load, and whether it records this GPU."""
    found, title = around.own, "collector"
    stops: Level = "fail" if around.collector == "host" and around.has_gpu else "absent"
    if found.error:
        reason, _, way_out = found.error.partition("; ")
        yield Finding(stops, title, reason.removeprefix("the collector "), way_out)
    elif found.trial_error:
        said = f"a trial recording failed: {found.trial_error}"
        yield Finding("fail" if stops == "fail" else "warn", title, said, "see Other profilers and CUPTI below")
    else:
        trial = "recorded a program on this GPU" if found.trial else "not tried"
        yield Finding("ok", title, f"built in, would load {Path(found.cupti).name}, {trial}")


def other_profilers(around: Surroundings) -> Iterator[Finding]:
    """Whether this very process runs under a profiler or debugger, which those that it starts would too."""
    environment = around.environment
    if environment.get("NSYS_PROFILING_SESSION_ID"):
        way_out = "leave the outer nsys out, or call tetrace.instrument() in the script and keep it"
        yield Finding("fail", "Other profilers", "this runs under nsys already, and a second one cannot start", way_out)
        return
    set_here = [name for name in INJECTIONS if environment.get(name)]
    preloaded = environment.get("LD_PRELOAD", "").lower()
    if any(tool in preloaded for tool in ("nsys", "nsight", "cupti", "toolsinjection", "ncu")):
        set_here.append("LD_PRELOAD")
    for name in set_here:
        library = Path(environment[name].split(":")[0]).name
        said = f"{name} loads {library} into every program: it takes the place of the recorder"
        # tetrace's own collector needs that place.
        level: Level = "fail" if around.collector == "cupti" and name in INJECTIONS else "warn"
        yield Finding(level, "Other profilers", said, f"unset {name}")
    tracer = _field(around.kernel.get("status", ""), "TracerPid:")
    if tracer not in ("", "0"):
        said = f"process {tracer} traces this one (a debugger or strace)"
        yield Finding("warn", "Other profilers", said, "run without it: tracing slows every system call")
    if not set_here and tracer in ("", "0"):
        yield Finding("ok", "Other profilers", "none in the way")


def variables(around: Surroundings) -> Iterator[Finding]:
    """Variables whose values make a recording show something else than training."""
    for name, harmless, said in _SPOILERS:
        value = around.environment.get(name, "")
        if value.upper() not in harmless:
            yield Finding("warn", "Variables", f"{name}={value}: {said}", f"unset {name} for the recording")
    debug = (around.environment.get("NVTE_DEBUG"), around.environment.get("NVTE_DEBUG_LEVEL"))
    if debug == ("1", "2"):
        said = "NVTE_DEBUG_LEVEL=2 makes attention read scales back to the host, which synchronizes"
        yield Finding(
            "warn", "Variables", said, "unset NVTE_DEBUG: a recording has the reasons for each attention backend"
        )


def cupti(around: Surroundings) -> Iterator[Finding]:
    """Whether CUPTI, which nsys and torch's profiler record with, is there and free."""
    if not around.has_gpu or not around.probe:
        return
    found = around.probe.get("cupti")
    if found is None:
        why = around.probe.get("errors", {}).get("cupti", "not reached")
        yield Finding("absent", "CUPTI", f"none that programs here would load ({why}); nsys brings its own")
    elif found["result"] == 0:
        said = f"{Path(found['path']).name}, API {found['version']}, held by no other tool"
        if found["version"] < _NOTICES_TAKING:
            said += "; one that takes its buffers later (Triton's Proton, cupti-python) would not be noticed before CUPTI 13"
        yield Finding("ok", "CUPTI", said)
    else:
        who = found.get("holder") or "another tool in this environment"
        said = {
            CUPTI_HELD: f"{who} holds it, and only one may",
            CUPTI_REFUSED: "the driver lets only administrators use it",
        }.get(found["result"], f"cuptiSubscribe returned {found['result']}")
        way_out = (
            "look for injected tools: CUDA_INJECTION64_PATH, LD_PRELOAD, a dynolog or DCGM agent in this container"
        )
        yield Finding("warn", "CUPTI", said, way_out)


def rights(around: Surroundings) -> Iterator[Finding]:
    """Settings that other profiling needs and a recording does not, since people look for them."""
    if not around.has_gpu:
        return
    unneeded = []
    if paranoid := around.kernel.get("perf_event_paranoid", "").strip():
        unneeded.append(f"perf_event_paranoid {paranoid} does not matter, the CPU is not sampled")
    if _field(around.kernel.get("nvidia", ""), "RmProfilingAdminOnly:") == "1":
        unneeded.append("RmProfilingAdminOnly 1 neither, it guards performance counters and not tracing")
    yield Finding("ok", "Rights", "; ".join(["no special ones needed", *unneeded]))


def folders(around: Surroundings) -> Iterator[Finding]:
    """Room, rights and file systems where a recording is written."""
    for place in around.places:
        yield _folder(place)


def _folder(place: Place) -> Finding:
    title = f"Folder for {place.use}"
    elsewhere = {
        "recordings": "run in another folder, or name one with -o",
        "cache": "set XDG_CACHE_HOME",
    }.get(place.use, "set TMPDIR")
    needed = place.use != "cache"
    if not place.writable:
        return Finding("fail" if needed else "warn", title, f"{place.path} cannot be written to", elsewhere)
    if place.free_bytes < 0:
        return Finding("warn", title, f"{place.path}: its free space cannot be told", elsewhere)
    said = f"{place.path} has {byte_count(place.free_bytes)} free"
    if place.free_bytes < _TOO_LITTLE and needed:
        return Finding("fail", title, said, f"make room, or {elsewhere}")
    if place.free_bytes < _LITTLE and needed:
        return Finding(
            "warn", title, f"{said}: a long recording may fill it", f"make room, {elsewhere}, or record less"
        )
    if place.kind.startswith(_REMOTE) and needed:
        return Finding("warn", title, f"{said}, on {place.kind}: ranges are written through memory there", elsewhere)
    return Finding("ok", title, said)


def nsys_lock(around: Surroundings) -> Iterator[Finding]:
    """What nsys keeps is under /tmp/nvidia, which belongs to the first user who ran it."""
    for place in around.places:
        folder = place.path / "nvidia"
        if place.use.startswith("temporary") and folder.is_dir() and not _writable(folder):
            said = f"{folder} belongs to another user, and nsys writes there"
            yield Finding("fail", "Temporary files of nsys", said, "set TMPDIR to a folder of your own")


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def extension(around: Surroundings) -> Iterator[Finding]:
    """Whether tetrace's own ranges can be recorded."""
    if around.instrumentation:
        way_out = "install tetrace again with pip, in this Python"
        yield Finding("fail", "tetrace's extension", f"ranges cannot be recorded: {around.instrumentation}", way_out)
    else:
        yield Finding("ok", "tetrace's extension", "built with ranges")
    for said, way_out in around.left_out:
        # The collector's own line says it where a recording needs it.
        if said not in around.own.error:
            yield Finding("absent", "Left out of this build", said, way_out)


def _field(text: str, name: str) -> str:
    """The value behind `name` in a file of the kernel; empty where it has none."""
    return next((line[len(name) :].strip() for line in text.splitlines() if line.startswith(name)), "")
