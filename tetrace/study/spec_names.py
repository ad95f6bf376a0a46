"""Whether everything that a study names is there: baselines, rows of notes, sweeps, claims."""

from __future__ import annotations

from tetrace.errors import UsageError
from tetrace.study.matrix import fits
from tetrace.study.spec import Claim, Matrix, Study, Sweep
from tetrace.study.toml_reader import TomlReader


def _named(study: Study) -> list[str]:
    """Whatever a report may call by its name: values and names of axes, matrices, options."""
    found: dict[str, None] = {}
    for matrix in study.matrices:
        found |= dict.fromkeys(label for labels in matrix.axes.values() for label in labels)
        found |= dict.fromkeys([*matrix.axes, matrix.name])
    return list(found | dict.fromkeys(option for planned in study.configurations for option in planned.options))


class NameCheck(TomlReader):
    """Checks one study; raises `InputError` for the first name that is of nothing."""

    def check(self, study: Study) -> None:
        names = [planned.name for planned in study.configurations]
        files = [planned.file_name for planned in study.configurations]
        for name, file in zip(names, files, strict=True):
            if names.count(name) > 1 or files.count(file) > 1:
                raise self.error(f"two configurations are named {name}; rename a matrix or a value")
        if not names:
            raise self.error("has no configuration; exclude fewer")
        for matrix in study.matrices:
            if isinstance(matrix.baseline, str) and matrix.baseline:
                prefixed = f"{matrix.name}:{matrix.baseline}"
                self.is_there(matrix.baseline, [*names, *([matrix.baseline] if prefixed in names else [])], "baseline")
            self._check_recorded(study, matrix)
        for note in study.notes:
            for row in note.rows:
                self.is_there(row.configuration, names, "configuration of a [[note.row]]")
        for pattern in study.quick_only:
            self._fits(study, pattern)
        options = dict.fromkeys(option for planned in study.configurations for option in planned.options)
        for option in study.redraws:
            self.is_there(option, options, "redraws")
        for word in study.words:
            self.is_there(word, _named(study), "[words]")
        for sweep in study.sweeps:
            self._check_sweep(study, sweep)
        for number, claim in enumerate(study.claims, 1):
            self._check_claim(study, claim, f"[[claim]] {number}", names)

    def _check_recorded(self, study: Study, matrix: Matrix) -> None:
        own = [planned.name for planned in study.configurations if planned.matrix == matrix.name]
        for pattern in matrix.recording if isinstance(matrix.recording, tuple) else ():
            if not any(fits(name, pattern, f"{matrix.name}:") for name in own):
                raise self.error(f"recording in matrix {matrix.name}: {pattern} fits none of its configurations")

    def _fits(self, study: Study, pattern: str) -> None:
        try:
            study.chosen([pattern])
        except UsageError as error:
            raise self.error(f"only in [quick]: {error}") from error

    def _check_sweep(self, study: Study, sweep: Sweep) -> None:
        self.is_there(sweep.matrix, [matrix.name for matrix in study.matrices], "matrix of a [[sweep]]")
        axes = study.matrix(sweep.matrix).axes
        self.is_there(sweep.along, list(axes), "along of a [[sweep]]")
        if sweep.group:
            self.is_there(sweep.group, list(axes), "group of a [[sweep]]")
        if sweep.baseline:
            self.is_there(sweep.baseline, list(axes.get(sweep.group, {})), "baseline of a [[sweep]]")

    def _check_claim(self, study: Study, claim: Claim, where: str, names: list[str]) -> None:
        # Names of another study are looked up where its results are.
        if claim.figure == "none" or claim.study:
            return
        if claim.figure == "crossing":
            sweeps = {sweep.matrix: sweep for sweep in study.sweeps}
            self.is_there(claim.sweep, list(sweeps), f"sweep of {where}")
            sweep = sweeps[claim.sweep]
            names = list(study.matrix(sweep.matrix).axes.get(sweep.group, {}))
        self.is_there(claim.of, names, f"of in {where}")
        if claim.against:
            self.is_there(claim.against, names, f"against in {where}")
