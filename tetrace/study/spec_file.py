"""Reads `study.toml`: every key is known, every name is of something that is there, and each error says the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tetrace.breakdown.toml_text import parsed
from tetrace.errors import InputError
from tetrace.study import spec
from tetrace.study.spec import Claim, Expected, Matrix, Measure, Note, NoteRow, Recording, Study, Sweep, Value
from tetrace.study.spec_names import NameCheck
from tetrace.study.toml_reader import TOP, TomlReader, is_number, label_of, like

_TOP = (
    *("title", "question", "device", "options", "environment", "measure", "quick", "recording"),
    *("matrix", "note", "claim", "sweep", "redraws", "words"),
)
_MATRIX = ("name", "options", "environment", "axes", "baseline", "exclude", "expect", "expected", "recording")
_CONDITIONS = ("at_least", "at_most", "equals", "between", "one_of")
_MOST_CONFIGURATIONS = 1000


def read(folder: Path) -> Study:
    """The study in `folder`. Raises `InputError` with the file, the key and the way out."""
    file = folder / spec.SPEC_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8"
        raise InputError(f"{file}: cannot be read ({reason}); `tetrace study --new NAME` writes one") from error
    if not (folder / spec.MODEL_FILE).is_file():
        raise InputError(f"{folder / spec.MODEL_FILE}: is missing; it defines build(**options) -> Workload")
    return _Reader(file).study(parsed(text, str(file), "`tetrace study --new NAME` writes one"))


class _Reader(TomlReader):
    """Reads one `study.toml`."""

    def study(self, said: Mapping[str, Any]) -> Study:
        self.known(said, _TOP, TOP)
        device = self.text(said, "device", TOP, "cuda")
        if device not in spec.DEVICES:
            raise self.error(f"device = {device!r}: is none; write one of {', '.join(spec.DEVICES)}")
        measure = self._measure(said.get("measure", {}), Measure(), "[measure]")
        quick = self.table(said, "quick", TOP)
        folder = self.file.parent
        study = Study(
            name=folder.resolve().name,
            folder=folder,
            title=self.text(said, "title", TOP, folder.resolve().name),
            question=self.text(said, "question", TOP, ""),
            device=device,
            measure=measure,
            recording=self._recording(self.table(said, "recording", TOP), device),
            matrices=self._matrices(said),
            options=self.options(said, TOP),
            environment=self.environment(said, TOP),
            quick=self._measure({key: quick[key] for key in quick if key != "only"}, measure, "[quick]", ("only",)),
            quick_only=self.words(quick, "only", "[quick]"),
            notes=tuple(self._note(each, where) for each, where in self.entries(said, "note")),
            claims=tuple(self._claim(each, where) for each, where in self.entries(said, "claim")),
            sweeps=tuple(self._sweep(each, where) for each, where in self.entries(said, "sweep")),
            redraws=self.words(said, "redraws", TOP),
            words={word: self._meaning(said["words"], word) for word in self.table(said, "words", TOP)},
        )
        NameCheck(self.file).check(study)
        return study

    def _meaning(self, said: Mapping[str, Any], word: str) -> str:
        meaning = self.text(said, word, "[words]", None)
        if not meaning.strip() or "\n" in meaning:
            raise self.error(f"{word} in [words]: is {meaning!r}; write what it means, on one line")
        return meaning

    def _measure(self, said: Any, over: Measure, where: str, more: Sequence[str] = ()) -> Measure:
        if not isinstance(said, dict):
            raise self.error(f"{where[1:-1]}: is no table; write {where} above its keys")
        names = [each.name for each in fields(Measure)]
        self.known(said, (*names, *more), f"in {where}")
        self.flag(said, "own_caches", where, False)
        for key, value in said.items():
            if key == "own_caches":
                continue
            least = 0 if key in ("warmup", "cpus") else 1
            whole = key != "limit_s"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= least:
                what = "a whole number" if whole else "a number of seconds"
                raise self.error(f"{key} = {value!r} in {where}: is not {what} from {least} on")
        return replace(over, **said)

    def _recording(self, said: Mapping[str, Any], device: str) -> Recording:
        from tetrace.record.options import COLLECTORS

        where = "in [recording]"
        self.known(said, [each.name for each in fields(Recording)], where)
        collector = self.text(said, "collector", "[recording]", "cupti" if device == "cuda" else "host")
        if collector not in COLLECTORS:
            raise self.error(f"collector = {collector!r} {where}: is none; write one of {', '.join(COLLECTORS)}")
        steps = said.get("steps", Recording.steps)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise self.error(f"steps = {steps!r} {where}: is not a whole number from 1 on")
        return Recording(collector, steps, self.words(said, "arguments", "[recording]"))

    def _matrices(self, said: Mapping[str, Any]) -> tuple[Matrix, ...]:
        matrices = tuple(self._matrix(each, where) for each, where in self.entries(said, "matrix"))
        if not matrices:
            raise self.error("has no [[matrix]]; write one, with axes.NAME = [values]")
        names = [matrix.name for matrix in matrices]
        for name in names:
            if names.count(name) > 1:
                raise self.error(f"two matrices are named {name!r}; give each a name of its own")
        return matrices

    def _matrix(self, said: Mapping[str, Any], where: str) -> Matrix:
        self.known(said, _MATRIX, f"in {where}")
        name = self.text(said, "name", where, "main")
        self.label(name, f"name in {where}")
        axes = {axis: self._axis(axis, values, where) for axis, values in self.table(said, "axes", where).items()}
        matrix = Matrix(
            name=name,
            options=self.options(said, where),
            environment=self.environment(said, where),
            axes=axes,
            baseline=self._baseline(said.get("baseline", ""), axes, where),
            exclude=tuple(self._excluded(each, axes, where) for each in self.tables(said, "exclude", where)),
            expected=self._expected(said, where),
            recording=self._recorded(said, where),
        )
        self._check_size(matrix, where)
        return matrix

    def _recorded(self, said: Mapping[str, Any], where: str) -> bool | tuple[str, ...]:
        if isinstance(said.get("recording"), list):
            return self.words(said, "recording", where)
        if not isinstance(said.get("recording", True), bool):
            raise self.error(f"recording = {said['recording']!r} in {where}: write true, false, or a list of patterns")
        return self.flag(said, "recording", where, True)

    def _check_size(self, matrix: Matrix, where: str) -> None:
        size = 1
        for values in matrix.axes.values():
            size *= len(values)
        if size > _MOST_CONFIGURATIONS:
            raise self.error(
                f"{where} has {size} configurations; {_MOST_CONFIGURATIONS} are the most: leave values out"
            )

    def _axis(self, axis: str, values: Any, where: str) -> dict[str, Value]:
        self.label(axis, f"axes in {where}")
        key = f"axes.{axis} in {where}"
        if not isinstance(values, list | dict) or not values:
            raise self.error(f"{key}: has no values; write a list of them, or a table by name")
        if isinstance(values, dict):
            return {label: self._value(axis, label, value, where) for label, value in values.items()}
        labels = [label_of(value) for value in values]
        for label, value in zip(labels, values, strict=True):
            if isinstance(value, list | dict):
                raise self.error(f"{key}: {value!r} has no name; write axes.{axis}.NAME = {{...}}")
            self.label(label, key, axis)
            if labels.count(label) > 1:
                raise self.error(f"{key}: has {label} twice; leave one out")
        return {label: Value({axis: value}, {}) for label, value in zip(labels, values, strict=True)}

    def _value(self, axis: str, label: str, said: Any, where: str) -> Value:
        key = f"axes.{axis}.{label} in {where}"
        self.label(label, f"axes.{axis} in {where}", axis)
        if not isinstance(said, dict):
            return Value(self.plain({axis: said}, f"axes.{axis} in {where}"), {})
        options = {option: value for option, value in said.items() if option != "environment"}
        return Value(self.plain(options, key), self.environment(said, key))

    def _baseline(self, said: Any, axes: Mapping[str, Any], where: str) -> str | dict[str, str]:
        if isinstance(said, str):
            return said
        if not isinstance(said, dict):
            raise self.error(f"baseline in {where}: is {said!r}; name a configuration, or {{axis = value}}")
        return {axis: self._one_of_axis(axis, value, axes, f"baseline in {where}") for axis, value in said.items()}

    def _excluded(self, said: Mapping[str, Any], axes: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
        if not said:
            raise self.error(f"exclude in {where}: an empty table excludes everything; name axes and values")
        return {
            axis: tuple(
                self._one_of_axis(axis, each, axes, f"exclude in {where}")
                for each in (value if isinstance(value, list) else [value])
            )
            for axis, value in said.items()
        }

    def _one_of_axis(self, axis: str, value: Any, axes: Mapping[str, Any], where: str) -> str:
        self.known({axis: value}, axes, f"among the axes ({where})")
        label = label_of(value)
        if label not in axes[axis]:
            raise self.error(f"{where}: {axis} has no value {label!r}; {like(label, axes[axis])}")
        return label

    def _expected(self, said: Mapping[str, Any], where: str) -> tuple[Expected, ...]:
        expect = said.get("expect", "")
        if expect not in ("", "fails"):
            raise self.error(f'expect = {expect!r} in {where}: write "fails", or leave it out')
        found = []
        for each in self.tables(said, "expected", where):
            self.known(each, ("configuration", "error"), f"in [[matrix.expected]] of {where}")
            pattern = self.text(each, "configuration", f"expected in {where}", "*")
            error = self.text(each, "error", f"expected in {where}", "")
            self.regex(error, f"error in expected of {where}")
            found.append(Expected(pattern, error))
        return (*found, *((Expected("*"),) if expect else ()))

    def _note(self, said: Mapping[str, Any], where: str) -> Note:
        rows = tuple(self._row(each, f"[[note.row]] {i} of {where}") for i, each in self.numbered(said, "row", where))
        facts = {key: str(value) for key, value in said.items() if key not in ("title", "hardware", "row")}
        return Note(self.text(said, "title", where, ""), self.text(said, "hardware", where, ""), rows, facts)

    def _row(self, said: Mapping[str, Any], where: str) -> NoteRow:
        name = self.text(said, "configuration", where, None)
        values = {key: value for key, value in said.items() if key not in ("configuration", "label")}
        for key, value in values.items():
            if not isinstance(value, int | float | str | bool):
                raise self.error(f"{key} in {where}: is {value!r}; write a number or a word")
        return NoteRow(name, self.text(said, "label", where, name), values)

    def _claim(self, said: Mapping[str, Any], where: str) -> Claim:
        self.known(said, [each.name for each in fields(Claim)], f"in {where}")
        figure = self.text(said, "figure", where, None)
        if not spec.knows_figure(figure):
            raise self.error(f"figure = {figure!r} in {where}: is none; {like(figure, spec.FIGURES)}")
        conditions = [key for key in _CONDITIONS if key in said]
        if len(conditions) != (figure != "none"):
            raise self.error(
                f"{where} has {len(conditions)} conditions; give one of {', '.join(_CONDITIONS)}"
                if figure != "none"
                else f"{where} has figure none and {conditions[0]}; a claim that nothing measures has no condition"
            )
        holds = said.get("holds")
        if holds is not None and not (figure == "none" and isinstance(holds, bool) and said.get("why")):
            raise self.error(f"holds in {where}: is for figure none, true or false, with why")
        between = said.get("between")
        if between is not None and not (
            isinstance(between, list) and len(between) == 2 and all(map(is_number, between))
        ):
            raise self.error(f"between in {where}: is {between!r}; write [least, most]")
        for key in ("at_least", "at_most"):
            if key in said and not is_number(said[key]):
                raise self.error(f"{key} in {where}: is {said[key]!r}; write a number")
        one_of = said.get("one_of", [])
        if not isinstance(one_of, list):
            raise self.error(f"one_of in {where}: is {one_of!r}; write a list")
        return Claim(
            says=self.text(said, "says", where, None),
            figure=figure,
            of=self.text(said, "of", where, ""),
            against=self.text(said, "against", where, ""),
            sweep=self.text(said, "sweep", where, ""),
            noted=said.get("noted"),
            at_least=said.get("at_least"),
            at_most=said.get("at_most"),
            equals=said.get("equals"),
            between=(between[0], between[1]) if between else None,
            one_of=tuple(one_of),
            holds=holds,
            why=self.text(said, "why", where, ""),
            beside=self._beside(said, figure, where),
            study=self._other_study(said, figure, where),
            otherwise=self._otherwise(said, figure, where),
        )

    def _otherwise(self, said: Mapping[str, Any], figure: str, where: str) -> str:
        otherwise = self.text(said, "otherwise", where, "")
        if otherwise and figure == "none":
            raise self.error(f"otherwise in {where}: is for a claim with a condition; figure is 'none', say it in why")
        return otherwise

    def _other_study(self, said: Mapping[str, Any], figure: str, where: str) -> str:
        study = self.text(said, "study", where, "")
        if study and (figure in ("none", "crossing") or figure.endswith("speedup")):
            raise self.error(
                f"study in {where}: is for figures of configurations that nobody explains; figure is {figure!r}"
            )
        if study.startswith(".") or "/" in study or "\\" in study:
            raise self.error(f"study in {where}: is {study!r}; write the name of the folder of a study beside this one")
        return study

    def _beside(self, said: Mapping[str, Any], figure: str, where: str) -> str:
        from tetrace.breakdown.figures import BY_NAME

        beside = self.text(said, "beside", where, "")
        times = [name for name in BY_NAME if name.endswith("_ms")]
        if beside and beside not in times:
            raise self.error(f"beside = {beside!r} in {where}: is no time of a recording; {like(beside, times)}")
        if beside and figure != "speedup":
            raise self.error(f"beside in {where}: stands beside a speedup; figure is {figure!r}")
        return beside

    def _sweep(self, said: Mapping[str, Any], where: str) -> Sweep:
        self.known(said, [each.name for each in fields(Sweep)], f"in {where}")
        figure = self.text(said, "figure", where, "total_ms")
        if not spec.knows_figure(figure):
            raise self.error(f"figure = {figure!r} in {where}: is none; {like(figure, spec.FIGURES)}")
        return Sweep(
            matrix=self.text(said, "matrix", where, None),
            along=self.text(said, "along", where, None),
            group=self.text(said, "group", where, ""),
            baseline=self.text(said, "baseline", where, ""),
            figure=figure,
            title=self.text(said, "title", where, ""),
        )
