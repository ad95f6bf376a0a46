"""What a report of a study is made from: results, times by round and recordings, each read once and when it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tetrace.errors import TetraceError
from tetrace.study import spec
from tetrace.study.comparable import differences, not_as_planned, unlike
from tetrace.study.explain import explain
from tetrace.study.explanation import Explanation
from tetrace.study.other_start import other_starts
from tetrace.study.results import MEASURED, WAITING, Configuration, Results, read
from tetrace.study.spec import Planned, Study
from tetrace.study.starts import Start, is_outside, moment_of, starts_of
from tetrace.study.statistics import Estimate, estimate, ratio

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.figures import Run
    from tetrace.trace.trace import Trace

TOTAL = "total"
NOT_RECORDED = "not recorded"
# What lies between the phases of one step and those of the next.
_BETWEEN = "(between steps)"
# Options that say in which precision matrix products run, where no recording tells.
_PLAIN_RECIPES = ("", "none", "bf16", "fp16", "fp32", "false", "off")


class Material:
    """A folder of results with its study. `recordings` False: recordings are not looked at, as if there were none.
    `as_planned` False: it does not matter whether they were measured as the study plans it now."""

    def __init__(self, folder: Path, study: Study, recordings: bool = True, as_planned: bool = True) -> None:
        self.folder = folder
        self.study = study
        self.results: Results = read(folder)
        self.has_recordings = recordings
        self.as_planned = as_planned
        self._traces: dict[str, Trace | str] = {}
        self._runs: dict[str, Run | str] = {}
        self._stale: dict[str, str] = {}
        self._explanations: dict[tuple[str, str], Explanation | str] = {}
        self._of_studies: dict[str, Material | str] = {}

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """The configurations that were asked for, in the study's order; those that the study has no more come last."""
        order = {planned.name: place for place, planned in enumerate(self.study.configurations)}
        asked = (one for one in self.results.configurations if not self.not_asked(one))
        return tuple(sorted(asked, key=lambda one: order.get(one.name, len(order))))

    def not_asked(self, one: Configuration) -> bool:
        """Whether nobody asked for a configuration (--only, --quick): one that was asked for has a key from the start."""
        return one.state == WAITING and not one.key

    @cached_property
    def left_out(self) -> int:
        """How many configurations nobody asked for."""
        return sum(self.not_asked(one) for one in self.results.configurations)

    @cached_property
    def _planned(self) -> dict[str, Planned]:
        """As the study plans them now, with the options that the stored run was told to change."""
        study, changed = self.study, self.results.options_changed
        if changed and not study.changed:
            # An option that the study has no more is a difference like any other.
            with contextlib.suppress(TetraceError):
                study = study.with_options(changed)
        return {planned.name: planned for planned in study.configurations}

    def configuration(self, name: str) -> Configuration | None:
        """The configuration of that name; None where it was not run."""
        return self.results.configuration(name)

    def baseline(self, name: str) -> str:
        """The configuration that a speed-up is against; empty where there is none, or it is its own."""
        planned = self._planned.get(name)
        return planned.baseline if planned and planned.baseline != name else ""

    def stale(self, name: str) -> str:
        """How what is stored differs from what the study plans now: `measured with other options`; empty where it does not."""
        if not self.as_planned:
            return ""
        if name not in self._stale:
            found = self.configuration(name)
            said = "" if found is None else not_as_planned(found, self._planned.get(name), self.study.folder)
            self._stale[name] = said
        return self._stale[name]

    def apart(self, of: str, against: str) -> str:
        """Why two configurations are not to be compared: what differs beside what the study lets differ; empty where they
        are."""
        for name in (of, against):
            if said := self.stale(name):
                return f"{name} was {said}"
        pair = [self.configuration(name) for name in (of, against)]
        contexts = [one.context for one in pair if one is not None and one.is_timed]
        if len(contexts) < 2 or contexts[0] == contexts[1]:
            return ""
        return f"{of} was measured {differences(self.results, *contexts)} than {against}"

    def odd(self, name: str) -> str:
        """What to know of a row before its numbers: how it differs from what is planned, or from what it is compared with."""
        base = self.baseline(name)
        return self.stale(name) or (self.apart(name, base) if base else "").removeprefix(f"{name} was ")

    def matrices(self) -> list[tuple[str, tuple[Configuration, ...]]]:
        """The configurations by matrix."""
        found: dict[str, list[Configuration]] = {}
        for one in self.configurations:
            found.setdefault(one.matrix, []).append(one)
        return [(name, tuple(members)) for name, members in found.items()]

    def recorded(self) -> list[Configuration]:
        """Configurations that were measured and, as the study says, should have been recorded."""
        return [
            one
            for one in self.configurations
            if one.state == MEASURED and (one.name not in self._planned or self._planned[one.name].recording)
        ]

    @cached_property
    def phases(self) -> tuple[str, ...]:
        """Phases that were timed, in their order."""
        columns = (str(name) for name in self.results.steps.columns)
        names = [name.removesuffix("_ns") for name in columns if name.endswith("_ns") and name != f"{TOTAL}_ns"]
        return tuple(name for name in names if self.results.steps[f"{name}_ns"].notna().any())

    @cached_property
    def _medians(self) -> dict[str, dict[str, dict[int, float]]]:
        """By configuration and column: the median of each round's steps, ns."""
        steps = self.results.steps
        columns = [f"{name}_ns" for name in (TOTAL, *self.phases)]
        found: dict[str, dict[str, dict[int, float]]] = {}
        if not len(steps):
            return found
        if self.phases:
            between = steps[columns[0]] - steps[columns[1:]].sum(axis=1)
            columns.append(f"{_BETWEEN}_ns")
            steps = steps.assign(**{columns[-1]: between})
        medians = steps.groupby(["configuration", "round"], sort=True)[columns].median()
        for (name, number), row in zip(medians.index, medians.itertuples(index=False), strict=True):
            for column, value in zip(columns, row, strict=True):
                if value == value:
                    by_round = found.setdefault(str(name), {}).setdefault(column.removesuffix("_ns"), {})
                    by_round[int(number)] = float(value)
        return found

    def rounds(self, name: str, column: str = TOTAL) -> Mapping[Hashable, float]:
        """A step's ns in each round: the median of its steps; none of a configuration that failed, or was stopped after too
        few. By number and group: rounds of two configurations that have the same ran side by side."""
        found = self.configuration(name)
        if found is None or not found.is_timed:
            return {}
        groups = {one.round: one.group for one in found.rounds}
        medians = self._medians.get(name, {}).get(column, {})
        return {(number, groups.get(number)): ns for number, ns in medians.items()}

    def rounds_words(self, one: Configuration) -> str:
        """How many rounds a configuration is of; `11 of 12` where it was stopped."""
        planned = self.results.measure.get("rounds")
        is_short = one.state != MEASURED and isinstance(planned, int) and len(one.rounds) < planned
        return f"{len(one.rounds)} of {planned}" if is_short else str(len(one.rounds))

    def time(self, name: str, column: str = TOTAL) -> Estimate | None:
        """A step's ns, or those of a phase of it; None where it was not measured."""
        return estimate(list(self.rounds(name, column).values()))

    def scatter(self, name: str, column: str = TOTAL) -> float | None:
        """The standard deviation of all measured steps of a configuration, ns; None where none was, or only one."""
        found, steps = self.configuration(name), self.results.steps
        key = f"{column}_ns"
        if found is None or not found.is_timed or key not in steps.columns:
            return None
        own = steps.loc[steps["configuration"] == name, key].std()
        return float(own) if own == own else None

    def first_steps(self, name: str) -> Mapping[Hashable, float]:
        """The first step of a configuration in each start of the machine that it was measured alike in, ns: in this one, and in
        those whose results lie beside these. Only such as ran alone."""
        own = self.configuration(name)
        if own is None or own.first_step_ns is None or own.first_step_beside:
            return {}
        found: dict[Hashable, float] = {self.results.started: float(own.first_step_ns)}
        for results in self._other_starts:
            other = results.configuration(name)
            if other is None or other.first_step_ns is None or other.first_step_beside:
                continue
            # What was set aside with a date may hold what is here still.
            if other.first_step_ns != own.first_step_ns and not unlike(own, other, (self.results, results)):
                found[results.started] = float(other.first_step_ns)
        return found

    @cached_property
    def _other_starts(self) -> list[Results]:
        return list(other_starts(self.folder, self.results.study))

    def of_study(self, name: str) -> Material | str:
        """Another study's results on the same machine, which lie beside this one's; the reason where there are none."""
        if name not in self._of_studies:
            place = self.study.folder.parent / name
            try:
                found: Material | str = Material(
                    place / "results" / self.folder.name, spec.read(place), self.has_recordings
                )
            except TetraceError:
                found = f"study {name} has no results called {self.folder.name} here"
            self._of_studies[name] = found
        return self._of_studies[name]

    def speedup(self, of: str, against: str, column: str = TOTAL) -> Estimate | None:
        """How many times faster `of` is than `against`, by pairs of rounds; None where one was not measured, or both are not
        to be compared."""
        if self.apart(of, against):
            return None
        return ratio(self.rounds(of, column), self.rounds(against, column))

    def run(self, name: str) -> Run | str:
        """What was recorded of a configuration, as figures ask it; the reason where there is nothing."""
        if name not in self._runs:
            self._runs[name] = self._broken_down(name)
        return self._runs[name]

    def breakdown(self, name: str) -> Breakdown | None:
        """What was recorded of a configuration; None where nothing was, or it cannot be read."""
        found = self.run(name)
        return None if isinstance(found, str) else found.breakdown

    def trace(self, name: str) -> Trace | str:
        """The recording of a configuration; the reason where there is none."""
        if name not in self._traces:
            self._traces[name] = self._read(name)
        return self._traces[name]

    def _read(self, name: str) -> Trace | str:
        found = self.configuration(name)
        if found is None or not found.recording or not self.has_recordings:
            return _why_not(found)
        # A name, never a path that leads out of the folder.
        path = self.folder / Path(found.recording).name
        if not path.exists():
            return f"{NOT_RECORDED}: {path.name} is not in this folder"
        from tetrace.sources.detect import load

        try:
            return load(path)
        except TetraceError as error:
            return f"{NOT_RECORDED}: {error}"

    def _broken_down(self, name: str) -> Run | str:
        found = self.trace(name)
        if isinstance(found, str):
            return found
        from tetrace.attribute.attribution import attribute
        from tetrace.breakdown.analysis import break_down
        from tetrace.breakdown.figures import Run

        try:
            return Run(break_down(attribute(found)))
        except TetraceError as error:
            if error.exit_code != 2:
                raise
            return f"{NOT_RECORDED}: {error}"

    def explanation(self, of: str, against: str) -> Explanation | str:
        """Why `of` takes another time than `against`; the reason where one was not recorded."""
        if (of, against) not in self._explanations:
            self._explanations[of, against] = self._explained(of, against)
        return self._explanations[of, against]

    def _explained(self, of: str, against: str) -> Explanation | str:
        if said := self.apart(of, against):
            return said
        for name in (against, of):
            planned = self._planned.get(name)
            if planned is not None and not planned.recording:
                return f"{name}: timed only, as the study says"
            found = self.run(name)
            if isinstance(found, str):
                return f"{name}: {found}"
        first, second = self.breakdown(against), self.breakdown(of)
        assert first is not None
        assert second is not None
        alone = self.time(against), self.time(of)
        timed = (alone[0].value, alone[1].value) if alone[0] and alone[1] else None
        try:
            between = self._between(against), self._between(of)
            return explain(first, second, (against, of), timed, self._phases_of(against, of), between)
        except TetraceError as error:
            if error.exit_code != 2:
                raise
            return str(error)

    def _phases_of(self, *names: str) -> dict[str, tuple[float, float]]:
        """Of two configurations, how long the phases of their steps are; empty where they were not timed, or some steps have
        a phase that others have not: their medians are of other steps then."""
        found = {}
        steps = self.results.steps
        own = steps[steps["configuration"].isin(names)]
        for phase in self.phases:
            timed = own[f"{phase}_ns"].notna().groupby(own["configuration"])
            if (timed.any() & ~timed.all()).any():
                return {}
            pair = [self.time(name, phase) for name in names]
            if pair[0] is not None and pair[1] is not None:
                found[phase] = (pair[0].value, pair[1].value)
            elif pair != [None, None]:
                return {}
        return found

    def _between(self, name: str) -> float:
        """What lies between the phases of one step and those of the next, ns."""
        found = self.time(name, _BETWEEN)
        return max(found.value, 0.0) if found else 0.0

    def uses_fp8(self, name: str) -> bool:
        """Whether a configuration multiplies in FP8: as recorded, else by its option `recipe`."""
        run = self.breakdown(name)
        if run is not None and run.fp8_coverage.gemm_ns:
            return run.fp8_coverage.fp8_ns > 0
        found = self.configuration(name)
        recipe = found.options.get("recipe", "none") if found else "none"
        return str(recipe or "none").lower() not in _PLAIN_RECIPES

    def recorded_elsewhere(self, name: str) -> datetime | None:
        """When a configuration was recorded, where that was for certain in another start of the machine than its rounds were
        timed in; else None."""
        ended, own = self._recorded_at(name), self._own_starts(name)
        return ended if ended and own and is_outside(ended, own, self._starts) else None

    def recorded_hours_later(self, name: str) -> int:
        """Hours from the last round of a configuration until it was recorded; 0 where the start tells more or nothing is
        known. It may have been another start then, or somebody else's work beside it."""
        ended, own = self._recorded_at(name), self._own_starts(name)
        if ended is None or not own or self.recorded_elsewhere(name) is not None:
            return 0
        return max(0, round((ended - own[-1].last).total_seconds() / 3600))

    def _recorded_at(self, name: str) -> datetime | None:
        trace = self.trace(name)
        ended_ns = None if isinstance(trace, str) else (trace.metadata.facts.get("ended") or {}).get("ended_ns")
        return datetime.fromtimestamp(ended_ns / 1e9, timezone.utc) if ended_ns else None

    def _own_starts(self, name: str) -> list[Start]:
        found = self.configuration(name)
        return starts_of(found.rounds) if found is not None else []

    @cached_property
    def _starts(self) -> list[Start]:
        """All starts of the machine that rounds are known of."""
        return starts_of(each for one in self.results.configurations for each in one.rounds)

    @cached_property
    def peaks_start(self) -> Start | None:
        """The start of the machine that the peaks were measured in; None where no round of it is known."""
        measured = moment_of((self.results.peaks or {}).get("measured_at"))
        return next((one for one in self._starts if measured and one.had(measured)), None)

    def has_peaks_of_its_own(self, name: str) -> bool:
        """Whether the peaks are those of the start that all rounds of a configuration were timed in."""
        found = self.configuration(name)
        if found is None or self.peaks_start is None:
            return False
        own = [starts_of([each]) for each in found.rounds]
        return all(one and self.peaks_start.is_that_of(one[0]) for one in own)

    def peak_flops(self, name: str) -> float | None:
        """Floating-point operations a second that this GPU was measured to reach in the precision of a configuration, in the
        start that it was timed in; None where none was measured, as of FP32 and TF32."""
        peaks = self.results.peaks or {}
        if not self.has_peaks_of_its_own(name) or (not self.uses_fp8(name) and self._is_single(name)):
            return None
        value = peaks.get("fp8_flops" if self.uses_fp8(name) else "bf16_flops")
        return float(value) if isinstance(value, int | float) and value > 0 else None

    def _is_single(self, name: str) -> bool:
        """Whether most of the recorded time of GEMMs is in FP32 or TF32."""
        run = self.breakdown(name)
        gemms = run.tables["gemms"].rows() if run is not None else []
        single = sum(row["total_ns"] for row in gemms if row["formats"] in ("FP32", "TF32"))
        return 2 * single > sum(row["total_ns"] for row in gemms)


def _why_not(found: Configuration | None) -> str:
    if found is None:
        return f"{NOT_RECORDED}: this configuration was not run"
    if found.recording_error:
        return f"{NOT_RECORDED}: {found.recording_error}"
    if found.state != MEASURED:
        return f"{NOT_RECORDED}: it is {found.state}"
    return NOT_RECORDED
