"""The work that HolisticTraceAnalysis is timed on: load one trace, then six breakdowns, no figures drawn.

Run by `analysis.py` with the interpreter of the peers' environment; a breakdown that fails is named, not hidden.
"""

import sys

from hta.trace_analysis import TraceAnalysis

BREAKDOWNS = {
    "get_temporal_breakdown": {"visualize": False},
    "get_idle_time_breakdown": {"visualize": False},
    "get_gpu_kernel_breakdown": {"visualize": False},
    "get_comm_comp_overlap": {"visualize": False},
    "get_cuda_kernel_launch_stats": {"visualize": False},
    "get_queue_length_summary": {},
}


def show(analysis: TraceAnalysis, name: str) -> None:
    """Write one breakdown, or why it failed: what a peer raises is a finding about it, not a reason to stop."""
    try:
        result = getattr(analysis, name)(**BREAKDOWNS[name])
    except Exception as error:
        sys.stdout.write(f"FAILED {name}: {error!r}\n")
    else:
        sys.stdout.write(f"{name}\n{result}\n")


if __name__ == "__main__":
    loaded = TraceAnalysis(trace_files={0: sys.argv[1]})
    for breakdown in BREAKDOWNS:
        show(loaded, breakdown)
