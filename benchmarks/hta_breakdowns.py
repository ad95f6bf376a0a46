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


def main() -> None:
    """Load the trace named on the command line and write every table to stdout."""
    analysis = TraceAnalysis(trace_files={0: sys.argv[1]})
    for name, options in BREAKDOWNS.items():
        try:
            result = getattr(analysis, name)(**options)
        except Exception as error:  # whatever a peer raises is a finding about it, not a reason to stop
            sys.stdout.write(f"FAILED {name}: {error!r}\n")
        else:
            sys.stdout.write(f"{name}\n{result}\n")


if __name__ == "__main__":
    main()
