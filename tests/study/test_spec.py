"""study.toml: what it means, and what it says of every mistake."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tetrace.errors import InputError, UsageError
from tetrace.study import spec
from tetrace.study.spec import Study

SPEC = """
title = "Fused against unfused"
question = "What do fused modules gain?"
[options]
batch = 8
recipe = "none"
[environment]
EVERYWHERE = "1"
[measure]
rounds = 5
[quick]
rounds = 2
only = ["*-none"]
[recording]
arguments = ["--fp8"]
[[matrix]]
axes.modules = ["unfused", "fused"]
axes.recipe.none = {}
axes.recipe.delayed = {recipe = "delayed", environment = {NVTE = "1"}}
baseline = {recipe = "none"}
expected = [{configuration = "fused-delayed", error = "no FP8"}]
[[matrix]]
name = "length"
options = {batch = 1}
axes.seq = [512, 1024]
axes.compiled = [true, false]
exclude = [{seq = 1024, compiled = [false]}]
baseline = "512-true"
recording = false
[[note]]
title = "A note"
hardware = "H100"
clock = "boost"
[[note.row]]
configuration = "fused-none"
label = "Fused, no FP8"
total_ms = 13.45
[[claim]]
says = "Fused modules alone give 3%"
figure = "speedup"
of = "fused-none"
against = "unfused-none"
noted = 1.03
at_least = 1.01
[[claim]]
says = "Short and long cross"
figure = "crossing"
sweep = "length"
of = "true"
against = "false"
between = [512, 1024]
[[claim]]
says = "Gradients are more precise"
figure = "none"
why = "No reference was computed."
[[sweep]]
matrix = "length"
along = "seq"
group = "compiled"
baseline = "true"
"""


def study(folder: Path, text: str = SPEC) -> Study:
    (folder / "model.py").touch()
    (folder / "study.toml").write_text(text)
    return spec.read(folder)


def test_configurations_are_the_combinations_of_the_axes(tmp_path: Path) -> None:
    found = {each.name: each for each in study(tmp_path).configurations}
    assert list(found) == [
        *("unfused-none", "unfused-delayed", "fused-none", "fused-delayed"),
        *("length:512-true", "length:512-false", "length:1024-true"),
    ]
    assert found["unfused-delayed"].options == {"batch": 8, "recipe": "delayed", "modules": "unfused"}
    assert found["unfused-delayed"].environment == {"EVERYWHERE": "1", "NVTE": "1"}
    assert found["length:512-true"].options == {"batch": 1, "recipe": "none", "seq": 512, "compiled": True}
    assert found["length:512-true"].axes == {"seq": "512", "compiled": "true"}
    assert found["length:512-true"].file_name == "length.512-true.tetrace"
    assert not found["length:512-true"].recording
    assert {name: each.expects for name, each in found.items() if each.expects is not None} == {
        "fused-delayed": "no FP8"
    }


def test_a_matrix_says_which_of_it_are_recorded(tmp_path: Path) -> None:
    """By patterns, with or without the matrix' name."""
    some = SPEC.replace("recording = false", 'recording = ["*-false", "length:1024-*"]')
    assert [
        each.name for each in study(tmp_path, some).configurations if each.matrix == "length" and each.recording
    ] == [
        "length:512-false",
        "length:1024-true",
    ]
    everything = study(tmp_path, SPEC.replace("recording = false\n", ""))
    assert all(each.recording for each in everything.configurations)


def test_rounds_are_even_so_that_drift_cancels() -> None:
    """Every second round goes the other way round: what grows by the same each turn is the same for all after two."""
    places = {"first": 0, "last": 15}
    for rounds in (spec.Measure().rounds, 4):
        sums = {
            name: sum(number * 16 + (place if number % 2 == 0 else 15 - place) for number in range(rounds))
            for name, place in places.items()
        }
        assert sums["first"] == sums["last"]


def test_baselines(tmp_path: Path) -> None:
    """The same but for an axis, or the one that is named; the first where nothing is said."""
    found = {each.name: each.baseline for each in study(tmp_path).configurations}
    assert found == {
        "unfused-none": "unfused-none",
        "unfused-delayed": "unfused-none",
        "fused-none": "fused-none",
        "fused-delayed": "fused-none",
        **dict.fromkeys(("length:512-true", "length:512-false", "length:1024-true"), "length:512-true"),
    }
    other = study(tmp_path, SPEC.replace('baseline = "512-true"', 'baseline = "fused-none"'))
    assert {each.baseline for each in other.configurations if each.matrix == "length"} == {"fused-none"}
    first = study(tmp_path, SPEC.replace('baseline = "512-true"', ""))
    assert {each.baseline for each in first.configurations if each.matrix == "length"} == {"length:512-true"}


def test_how_it_is_measured(tmp_path: Path) -> None:
    found = study(tmp_path)
    assert (found.device, found.recording.collector, found.recording.arguments) == ("cuda", "cupti", ("--fp8",))
    assert (found.measure.rounds, found.quick.rounds, found.quick.steps) == (5, 2, found.measure.steps)
    assert [each.name for each in found.chosen(found.quick_only)] == ["unfused-none", "fused-none"]


def test_notes_and_claims(tmp_path: Path) -> None:
    found = study(tmp_path)
    assert found.notes[0].facts == {"clock": "boost"}
    assert found.notes[0].rows[0].values == {"total_ms": 13.45}
    assert [claim.figure for claim in found.claims] == ["speedup", "crossing", "none"]
    assert found.claims[1].between == (512, 1024)


def test_options_of_the_command_line(tmp_path: Path) -> None:
    """They count wherever no axis sets them, and over the options of a matrix."""
    changed = study(tmp_path).with_options({"batch": 2, "recipe": "current"})
    found = {each.name: each.options for each in changed.configurations}
    assert {options["batch"] for options in found.values()} == {2}
    assert (found["unfused-none"]["recipe"], found["unfused-delayed"]["recipe"]) == ("current", "delayed")
    assert changed.changed == {"batch": 2, "recipe": "current"}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("bach", "--option bach: {} has no such option; did you mean batch?"),
        ("modules", None),
    ],
)
def test_an_option_that_cannot_be_changed(tmp_path: Path, option: str, said: str | None) -> None:
    plain = SPEC[: SPEC.index("[[matrix]]\nname")]
    with pytest.raises(UsageError) as error:
        study(tmp_path, plain).with_options({option: 1})
    expected = said or "--option modules: is an axis of {}; choose its values with --only"
    assert str(error.value) == expected.format(tmp_path.name)


@pytest.mark.parametrize(
    ("own", "value", "said"),
    [
        ("8", "abc", "is not a number, as {} has it (kind = 8)"),
        ("8", True, "is not a number, as {} has it (kind = 8)"),
        ("8", float("nan"), "is not a number, as {} has it (kind = 8)"),
        ("8", 0.5, ""),
        ("false", "yes", "is not true or false, as {} has it (kind = false)"),
        ("false", 1, "is not true or false, as {} has it (kind = false)"),
        ("true", False, ""),
        ('"none"', "current", ""),
        ('"none"', 1, ""),
    ],
)
def test_a_value_that_is_of_another_kind(tmp_path: Path, own: str, value: object, said: str) -> None:
    spec = f'title = "t"\n[options]\nkind = {own}\n[[matrix]]\nname = "main"\naxes.way = ["a"]\n'
    with pytest.raises(UsageError) if said else contextlib.nullcontext() as error:
        study(tmp_path, spec).with_options({"kind": value})
    if error:
        assert str(error.value) == f"--option kind={str(value).replace('T', 't')}: {said.format(tmp_path.name)}"


def test_an_option_of_several_kinds_takes_any(tmp_path: Path) -> None:
    axes = 'axes.way = ["a"]\n[[matrix]]\nname = "other"\noptions.kind = "few"\naxes.way = ["a"]\n'
    study(tmp_path, f'title = "t"\n[options]\nkind = 8\n[[matrix]]\nname = "main"\n{axes}').with_options(
        {"kind": "all"}
    )


def test_a_pattern_that_fits_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^fused-non: fits no configuration of .*; did you mean fused-none"):
        study(tmp_path).chosen(["fused-*", "fused-non"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title", "titel", "'titel' at the top is not known; did you mean title?"),
        ("batch = 8", "batch = 2026-11-21", "batch in options at the top: is a date or a time; write it as a text in"),
        ("batch = 8", "batch = [[1, 10:00:00]]", "batch in options at the top: is a date or a time"),
        ('recipe = "delayed"', "recipe = 2026-11-21", "recipe in axes.recipe.delayed in [[matrix]] 1: is a date"),
        ("recipe.none = {}", "recipe.none = 10:00:00", "recipe in axes.recipe in [[matrix]] 1: is a date or a time"),
        ("rounds = 5", "round = 5", "'round' in [measure] is not known; did you mean rounds?"),
        ("rounds = 5", "rounds = 0", "rounds = 0 in [measure]: is not a whole number from 1 on"),
        ("rounds = 5", 'rounds = "many"', "rounds = 'many' in [measure]: is not a whole number from 1 on"),
        ("rounds = 5", "limit_s = -1", "limit_s = -1 in [measure]: is not a number of seconds from 1 on"),
        ('["*-none"]', '["*-non"]', "only in [quick]: *-non: fits no configuration of"),
        ('["unfused", "fused"]', "[]", "axes.modules in [[matrix]] 1: has no values; write a list of them"),
        ('"unfused", "fused"', '"fused", "fused"', "axes.modules in [[matrix]] 1: has fused twice; leave one out"),
        (
            '"unfused", "fused"',
            '"un/fused"',
            "'un/fused' cannot name a file; write axes.modules.NAME = {modules = ...}",
        ),
        ("axes.recipe.none", 'axes.recipe."../none"', "'../none' cannot name a file; write axes.recipe.NAME"),
        ('{recipe = "none"}', '{recip = "none"}', "'recip' among the axes (baseline in [[matrix]] 1) is not known"),
        (
            '{recipe = "none"}',
            '{recipe = "no"}',
            "baseline in [[matrix]] 1: recipe has no value 'no'; did you mean none?",
        ),
        ('baseline = "512-true"', 'baseline = "511-true"', "baseline: '511-true' is not in this study; did you mean"),
        ("exclude = [{seq = 1024", "exclude = [{seq = 2048", "exclude in [[matrix]] 2: seq has no value '2048'"),
        ('error = "no FP8"', 'error = "(no"', "'(no' is no regular expression"),
        ('NVTE = "1"', "NVTE = 1", "NVTE is 1; write a text in quotes"),
        ('EVERYWHERE = "1"', '"A=B" = "1"', "'A=B' is no variable's name; write letters, digits and _"),
        (
            'configuration = "fused-none"',
            'configuration = "fused"',
            "configuration of a [[note.row]]: 'fused' is not in",
        ),
        ('"speedup"', '"speedup"\nholds = true', "holds in [[claim]] 1: is for figure none, true or false, with why"),
        ("at_least = 1.01", "", "[[claim]] 1 has 0 conditions; give one of at_least, at_most"),
        ("at_least = 1.01", "at_least = 1.01\nat_most = 2", "[[claim]] 1 has 2 conditions; give one of"),
        ("at_least = 1.01", 'at_least = "1%"', "at_least in [[claim]] 1: is '1%'; write a number"),
        ("between = [512, 1024]", "between = [512]", "between in [[claim]] 2: is [512]; write [least, most]"),
        (
            "recording = false",
            'recording = ["2048-*"]',
            "recording in matrix length: 2048-* fits none of its configurations",
        ),
        (
            "recording = false",
            'recording = "no"',
            "recording = 'no' in [[matrix]] 2: write true, false, or a list of patterns",
        ),
        ('figure = "speedup"', 'figure = "sped"', "figure = 'sped' in [[claim]] 1: is none; did you mean speedup"),
        ('against = "unfused-none"', 'against = "none"', "against in [[claim]] 1: 'none' is not in this study"),
        ('along = "seq"', 'along = "sec"', "along of a [[sweep]]: 'sec' is not in this study; did you mean seq?"),
        ('name = "length"', 'name = "main"', "two matrices are named 'main'; give each a name of its own"),
        (
            'arguments = ["--fp8"]',
            'collector = "nvprof"',
            "collector = 'nvprof' in [recording]: is none; write one of auto",
        ),
        ('title = "Fused', 'device = "tpu"\ntitle = "Fused', "device = 'tpu': is none; write one of cuda, cpu"),
        ("[[note]]", "[note]", "note at the top: is no list of tables; write [[note]] above each"),
        ("[options]", "options", "is not TOML ("),
        ("[options]", '[words]\nnon = "BF16"\n[options]', "[words]: 'non' is not in this study; did you mean none?"),
        ("[options]", "[words]\nnone = 16\n[options]", "none in [words]: is 16; write a text in quotes"),
        ("[options]", '[words]\nnone = " "\n[options]', "none in [words]: is ' '; write what it means, on one line"),
        ("[options]", 'words = "none"\n[options]', "words at the top: is no table; write words = {...}"),
    ],
)
def test_each_mistake_is_named_with_the_way_out(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SPEC
    with pytest.raises(InputError) as error:
        study(tmp_path, SPEC.replace(old, new, 1))
    assert str(error.value).startswith(f"{tmp_path / 'study.toml'}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.toml: cannot be read \(No such file.*--new NAME` writes one"):
        spec.read(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    with pytest.raises(InputError, match=r"model\.py: is missing; it defines build"):
        spec.read(tmp_path)


def test_two_configurations_never_share_a_name(tmp_path: Path) -> None:
    more = SPEC + '\n[[matrix]]\nname = "m"\naxes.a.x-y = {}\n'
    with pytest.raises(InputError, match="'x-y' cannot name a file"):
        study(tmp_path, more)
    same = '[[matrix]]\naxes.a = ["m.x"]\n[[matrix]]\nname = "m"\naxes.a = ["x"]\n'
    with pytest.raises(InputError, match="two configurations are named"):
        study(tmp_path, same)
