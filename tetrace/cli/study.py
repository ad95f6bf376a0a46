"""`tetrace study`: measure a workload under a matrix of options, and say what makes the difference."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli.folders import check_folder
from tetrace.cli.output import write_output
from tetrace.cli.study_options import changes, check_alone, command
from tetrace.errors import TetraceError, UsageError
from tetrace.record.options import COLLECTORS

if TYPE_CHECKING:
    from tetrace.study.machine import Machine
    from tetrace.study.progress import Watcher
    from tetrace.study.resolve import Place
    from tetrace.study.runner import Options
    from tetrace.study.spec import Measure, Study

_WIDTH = 100
_NOTHING_MEASURED = 1


@click.command()
@click.argument("study", required=False, metavar="[NAME|FOLDER]")
@click.option(
    "--only", multiple=True, metavar="PATTERN", help="Only configurations whose names fit: `fused-*`, `*-none`."
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rounds of each configuration.  [default: the study's own, else 8]",
)
@click.option(
    "--quick", is_flag=True, help="Fewer rounds and configurations, as the study says: minutes, wider intervals."
)
@click.option(
    "--option",
    "changed",
    multiple=True,
    metavar="KEY=VALUE",
    help="Give an option of the model another value: `--option batch=4`.",
)
@click.option(
    "--fresh", is_flag=True, help="Measure again what was measured already (with --only: of that); the old is kept."
)
@click.option("--no-recordings", is_flag=True, help="Measure only: no recordings, and so no explanations.")
@click.option("--collector", type=click.Choice(COLLECTORS), help="What records, as in `tetrace record`.")
@click.option(
    "--together",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N processes at a time.  [default: the study's own, else 8]",
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="End a configuration after S seconds of its own work.  [default: 600]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the results to FOLDER, which is made in a folder that exists.",
)
@click.option("--report-only", is_flag=True, help="Measure nothing: write the report of stored results again.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Compare with the results in FOLDER, of another run of the study: is the ranking the same?  [default: those of "
    "another start of the machine beside them]",
)
@click.option("--new", metavar="NAME", help="Start a study of your own in ./profiles/NAME.")
@click.option("--wide", is_flag=True, help="Names and claims uncut, lines as long as they get.")
def study(
    study: str | None,
    only: tuple[str, ...],
    repeat: int | None,
    quick: bool,
    changed: tuple[str, ...],
    fresh: bool,
    no_recordings: bool,
    collector: str | None,
    together: int | None,
    limit: float | None,
    output: Path | None,
    report_only: bool,
    against: Path | None,
    new: str | None,
    wide: bool,
) -> int:
    """Measure a workload under a matrix of options, and say what makes the difference.

    A study is a folder with study.toml and model.py: one of ./profiles, one that tetrace brings, or any other. Without a
    name they are listed. Each configuration runs in a process of its own, in interleaved rounds; one that fails, hangs or
    runs out of memory is a row with its error. Then it records those that the study names, and takes apart the speed-ups
    that recordings can explain. Ctrl-C stops, and the same command goes on from there.

    The results are in profiles/NAME/results/MACHINE, with REPORT.md and report.html; those of --quick and --option are in
    folders of their own beside it. What is measured again, since its code, options or versions changed, is kept in
    earlier/ there. Without a GPU the stored results are shown.
    """
    if study is None:
        check_alone(new)
    if new is not None:
        return _new(new, study)
    if study is None:
        return _list(wide)
    check_folder(output)
    from tetrace.study import machine as machines
    from tetrace.study import resolve, spec
    from tetrace.study.runner import Options

    place = resolve.find(study)
    chosen = spec.read(place.folder).with_options(changes(changed))
    measure = _measure(chosen, quick, repeat, together, limit)
    options = Options(
        only=only or (chosen.quick_only if quick else ()),
        quick=quick,
        fresh=fresh,
        recordings=not no_recordings,
        collector=collector or "",
        command=command(study, quick, repeat, changed),
    )
    chosen.chosen(options.only)
    machine = machines.find(chosen.device, os.environ)
    if report_only or machine is None:
        return _stored(chosen, place, output, quick, report_only, against, wide, bool(only))
    folder = output or place.results / resolve.results_name(machine.slug, quick, chosen.changed)
    if against:
        resolve.check_against(chosen, folder, against)
    return _run(chosen, measure, machine, folder, options, against, wide)


def _run(
    study: Study,
    measure: Measure,
    machine: Machine,
    folder: Path,
    options: Options,
    against: Path | None,
    wide: bool,
) -> int:
    from tetrace.cli.study_folder import alone, stoppable
    from tetrace.cli.study_progress import shown
    from tetrace.study import results
    from tetrace.study.runner import Run

    with stoppable(), shown(study.name) as watcher, alone(folder):
        run = Run(study, measure, machine, folder, options, watcher)
        _calibrate(machine, watcher)
        try:
            measured = run.execute()
        except KeyboardInterrupt:
            watcher.say(f"stopped; what was measured is in {folder}, and the same command goes on from there")
            watcher.say("writing the report of that; Ctrl-C leaves it out")
            try:
                _report(folder, study, against)
            except TetraceError as error:
                watcher.say(f"there is no report of it: {error}")
            raise
        watcher.say("writing the report")
        _report(folder, study, against)
    click.echo(_screen(folder, study, wide), nl=False)
    click.echo(f"tetrace: {folder / 'REPORT.md'}", err=True)
    chosen = {planned.name for planned in study.chosen(options.only)}
    states = {each.state for each in measured.configurations if each.name in chosen and not each.expected}
    return _NOTHING_MEASURED if states and results.MEASURED not in states else 0


def _stored(
    study: Study,
    place: Place,
    output: Path | None,
    quick: bool,
    report_only: bool,
    against: Path | None,
    wide: bool,
    only: bool,
) -> int:
    """Show stored results: those of --output, else the newest, of --quick and --option where those are given. Files are
    written with --report-only alone."""
    from tetrace.study import resolve

    stored = resolve.stored(place, quick, study.changed)
    folders = (output,) if output else stored.folders
    why = "--report-only" if report_only else "no GPU is visible"
    for line in stored.unreadable if not output else ():
        click.echo(f"tetrace: {line}", err=True)
    if not folders:
        such = " of these options" if quick or study.changed else " that can be read" if stored.unreadable else ""
        way = "run it first" if report_only else "run it on a machine with a GPU"
        nothing = f"nothing is stored{such}, and nothing is measured here: {why}"
        raise UsageError(f"{study.name}: {nothing}; {way}, or name a folder of results with --output")
    _check_stored(study, folders[0], against)
    if report_only:
        resolve.check_report(study, place, folders[0])
        _report(folders[0], study, against)
    click.echo(_screen(folders[0], study, wide, None if report_only else against), nl=False)
    whole = "all of " if only else ""
    stored_in = f"these are {whole}the stored results of {folders[0]}"
    if against and not report_only:
        stored_in += f" beside those of {against}; --report-only writes that into its report"
    click.echo(f"tetrace: nothing was measured here ({why}); {stored_in}", err=True)
    return 0


def _check_stored(study: Study, folder: Path, against: Path | None) -> None:
    from tetrace.study import resolve

    resolve.check(study, folder)
    if against:
        resolve.check_against(study, folder, against)
        resolve.check_steps(study, folder)


def _report(folder: Path, study: Study, against: Path | None) -> None:
    from tetrace.study import report

    report.write(folder, study, against)


def _screen(folder: Path, study: Study, wide: bool, against: Path | None = None) -> str:
    from tetrace.study import report

    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return report.first_screen(folder, study, _width(), color, wide, against)


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH, 45)).columns


def _list(wide: bool) -> int:
    """All studies: name, title, and on which machines there are results."""
    from tetrace.report.grid import Column, Grid
    from tetrace.study import resolve, spec

    rows, unreadable = [], list[str]()
    for name in resolve.names():
        place = resolve.find(name)
        try:
            title = spec.read(place.folder).title
        except TetraceError as error:
            title = str(error)
        stored = resolve.stored(place)
        unreadable.extend(stored.unreadable)
        rows.append((name, title, " ".join(dict.fromkeys(folder.name for folder in stored.folders))))
    if not rows:
        raise UsageError("there are no studies here; start one with --new NAME")
    columns = (Column("study", number=False), Column("", number=False), Column("results", number=False))
    lines = Grid("", columns, tuple(rows)).lines(_width(), wide)
    write_output({"": "\n".join([*lines, ""])}, None, True)
    for line in unreadable:
        click.echo(f"tetrace: {line}", err=True)
    return 0


def _new(name: str, study: str | None) -> int:
    from tetrace.study import resolve

    if study is not None:
        raise UsageError(f"--new {name} starts a study and {study} names one; leave one out")
    folder = resolve.new(name)
    click.echo(f"tetrace: wrote {folder}; change model.py and study.toml, then: tetrace study {name}", err=True)
    return 0


def _measure(study: Study, quick: bool, repeat: int | None, together: int | None, limit: float | None) -> Measure:
    base = study.quick if quick else study.measure
    given = {"rounds": repeat, "together": together, "limit_s": limit}
    return replace(base, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


def _calibrate(machine: Machine, watcher: Watcher) -> None:
    """Measure the peaks of this GPU where they are not known of this start of the machine, in a process that leaves the GPU
    again."""
    from tetrace.record import calibration
    from tetrace.study.starts import moment_of, this_start

    known = moment_of((calibration.load(machine.gpu) or {}).get("measured_at"))
    if not machine.gpu or (known is not None and known >= this_start()):
        return
    watcher.say("measuring the GPU's peaks first, for half a minute")
    doctor = [sys.executable, "-m", "tetrace", "doctor", "--calibrate", "--format", "json"]
    done = subprocess.run(
        doctor, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        watcher.say(f"shares of the peak are left out: the GPU could not be measured ({said})")
