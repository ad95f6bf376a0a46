"""Studies: a workload under a matrix of options, each configuration measured in a process of its own, and explained.

A study is a folder with `study.toml` (`tetrace.study.spec` says what is in it) and `model.py`, whose `build` returns a
`Workload`. Nothing heavy is imported here: `model.py` imports this too.
"""

from tetrace.study.workload import Mark, Workload

__all__ = ["Mark", "Workload"]
