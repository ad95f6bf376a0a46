"""The studies under profiles/: each reads, has the configurations it is about, and trains with stand-ins on the CPU."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.study import te_on_cpu
from tetrace.study import Workload, recordings, spec, surroundings
from tetrace.study.spec import Planned, Study

torch = pytest.importorskip("torch")

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
NOTES = {"fusion": 6, "hybrid": 4, "attention": 15, "gated": 2, "stability": 5}
# What each study is made small by; kv_heads stay a divisor of heads, dimensions of FP8 GEMMs multiples of 16.
SMALL: dict[str, dict[str, Any]] = {
    "fusion": {"layers": 1, "hidden": 192, "ffn": 256, "batch": 2, "seq": 16},
    "hybrid": {"layers": 1, "hidden": 128, "ffn": 256, "heads": 4, "batch": 2, "seq": 16},
    "attention": {"hidden": 128, "ffn": 256, "heads": 4, "batch": 2, "seq": 16},
    "gated": {"layers": 1, "hidden": 32, "ffn": 64, "heads": 2, "seq": 8, "vocabulary": 48},
    "stability": {"layers": 2, "hidden": 64, "heads": 4, "batch": 2, "seq": 16},
}


def read(name: str) -> Study:
    return spec.read(PROFILES / name)


def names(study: Study, matrix: str) -> list[str]:
    return [planned.name for planned in study.configurations if planned.matrix == matrix]


def products(*axes: list[Any]) -> list[str]:
    """`a-x`, `a-y`, ... of lists."""
    import itertools

    return ["-".join(map(str, values)) for values in itertools.product(*axes)]


@pytest.mark.parametrize("name", NOTES)
def test_each_study_has_its_note_and_only_names_what_is_there(name: str) -> None:
    study = read(name)  # refuses rows, claims, sweeps and baselines that name nothing
    assert sum(len(note.rows) for note in study.notes) == NOTES[name]
    assert study.claims
    assert study.question.endswith("?")
    assert all(planned.baseline for planned in study.configurations)
    assert all(claim.why for claim in study.claims if claim.figure == "none")


@pytest.mark.parametrize("name", NOTES)
def test_each_claim_is_of_figures_that_its_configurations_have(name: str) -> None:
    """What is read off a recording is recorded, and what a speed-up compares, so that it can be explained."""
    study = read(name)
    recorded = {"launches", "busy_ms", "fp8_coverage_pct", "quantization_pct", "max_saturation_pct", "backend"}
    for claim in study.claims:
        of_gradients = claim.figure.startswith("gradient_")
        is_read = claim.figure in recorded or claim.figure.endswith("speedup") or of_gradients
        asked = read(claim.study) if claim.study else study
        assert not of_gradients or "--fp8" in asked.recording.arguments
        for of in filter(None, (claim.of, claim.against) if is_read else ()):
            planned = asked.configuration(of)
            assert planned is not None
            assert planned.recording, f"{claim.says}: {of} is not recorded"


@pytest.mark.parametrize("name", NOTES)
def test_what_a_claim_quotes_is_what_the_note_has(name: str) -> None:
    """A noted speed-up is that of two rows of the note's table, or the one that it prints itself; a range stays a text."""
    study, checked = read(name), 0
    for claim in study.claims:
        if not claim.figure.endswith("speedup") or not isinstance(claim.noted, float):
            continue
        column = f"{claim.figure.removesuffix('speedup').rstrip('_') or 'total'}_ms"
        pair = [one.rpartition(":")[2] for one in (claim.of, claim.against)]
        tables = [{row.configuration: row.values for row in note.rows} for note in study.notes]
        there = [[table[one] for one in pair] for table in tables if table.keys() >= set(pair)]
        quoted = {own["speedup"] for own, other in there if other.get("speedup") == 1}
        quoted |= {round(other[column] / own[column], 3) for own, other in there if column in own and column in other}
        assert not quoted or claim.noted in quoted, f"{claim.says}: {claim.noted} is none of {quoted}"
        checked += bool(quoted)
    assert checked or name == "stability"  # which quotes no speed-up


@pytest.mark.parametrize("name", NOTES)
def test_both_ends_of_each_sweep_are_recorded(name: str) -> None:
    """Themselves, or a configuration that runs the same."""
    study = read(name)
    recorded = {repr((planned.options, planned.environment)) for planned in study.configurations if planned.recording}
    for sweep in study.sweeps:
        members = [planned for planned in study.configurations if planned.matrix == sweep.matrix]
        places = sorted({planned.options[sweep.along] for planned in members})
        for planned in members:
            if planned.options[sweep.along] in (places[0], places[-1]):
                assert repr((planned.options, planned.environment)) in recorded, planned.name


def test_how_many_recordings_each_study_makes() -> None:
    """Each costs seconds of a GPU: who adds some knows it."""
    found = {name: sum(planned.recording for planned in read(name).configurations) for name in NOTES}
    assert found == {"fusion": 26, "hybrid": 19, "attention": 33, "gated": 34, "stability": 27}


def test_what_is_said_of_peaks_is_what_is_stored() -> None:
    """A new calibration changes the sentence: in docs/study.md, and in every report."""
    files = PROFILES.glob("*/results/*/study.json")
    stored = [peaks for file in files if (peaks := json.loads(file.read_text(encoding="utf-8"))["peaks"])]
    peaks = {(one["bf16_flops"], one["fp8_flops"]) for one in stored}
    (bf16, fp8) = ([round(one / 1e12) for one in column] for column in zip(*peaks, strict=True))
    said = f"Calibrations of H200s reached {min(bf16)} to {max(bf16)} TFLOP/s in BF16 and {min(fp8):,} to {max(fp8):,} in FP8"
    assert len(peaks) > 1
    page = (PROFILES.parent / "docs" / "study.md").read_text(encoding="utf-8")
    assert said in " ".join(page.split())
    assert said in surroundings.MEANINGS["Share of peak"]


@pytest.mark.parametrize("name", NOTES)
def test_drift_cancels(name: str) -> None:
    """Of rounds that go back and forth there is an even number."""
    study = read(name)
    assert (study.measure.rounds % 2, study.quick.rounds % 2) == (0, 0)


@pytest.mark.parametrize("name", NOTES)
def test_options_are_the_arguments_of_build(name: str) -> None:
    tree = ast.parse((PROFILES / name / "model.py").read_text(encoding="utf-8"))
    (build,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build"]
    assert build.args.args == []
    assert build.args.kw_defaults == [None] * len(build.args.kwonlyargs)
    arguments = {argument.arg for argument in build.args.kwonlyargs}
    for planned in read(name).configurations:
        assert set(planned.options) == arguments, planned.name


def test_fusion_crosses_modules_with_recipes() -> None:
    study = read("fusion")
    recipes = ["none", "e4m3", "hybrid", "current", "block"]
    assert names(study, "main") == products(["unfused", "fused"], recipes)
    values = ["plain", "gqa", "rmsnorm", "qk_norm", "rope", "all"]
    assert names(study, "architecture") == [f"architecture:{value}" for value in values]
    modules = ["unfused", "fused"]
    assert names(study, "graphs") == [f"graphs:{name}" for name in products(modules, ["none", "hybrid"])]
    assert names(study, "fp32") == [f"fp32:{name}" for name in products(modules, recipes[:3])]


def test_hybrid_crosses_approaches_with_recipes() -> None:
    study = read("hybrid")
    approaches = ["transformer_layer", "multihead_attention", "hybrid", "hybrid_compiled"]
    assert names(study, "main") == products(["none", "delayed", "current", "block"], approaches)
    assert len(names(study, "avoid")) == 3
    assert study.measure.own_caches  # what compilation costs is a claim


def test_attention_crosses_implementations_with_backends() -> None:
    study = read("attention")
    backends = ["fused", "flash", "unfused"]
    found = ["vanilla-by_hand"]
    for implementation in ("te", "te_fp8"):
        found += products([implementation], [*backends, "auto"])
    assert names(study, "main") == [*found, *products(["te_current", "te_block"], backends)]
    lengths = [256, 512, 1024, 2048, 4096, 8192]
    assert names(study, "length") == [f"length:{name}" for name in products(lengths, backends)]
    for planned in study.configurations:
        if planned.matrix == "length":
            assert planned.options["batch"] * planned.options["seq"] == 8192


def test_attention_leaves_one_backend_on() -> None:
    study = read("attention")
    switches = {"flash": "NVTE_FLASH_ATTN", "fused": "NVTE_FUSED_ATTN", "unfused": "NVTE_UNFUSED_ATTN"}
    for planned in study.configurations:
        backend = planned.axes["attention"]
        wanted = {switch: str(int(one == backend)) for one, switch in switches.items()} if backend in switches else {}
        set_here = {switch: value for switch, value in planned.environment.items() if switch in switches.values()}
        assert set_here == wanted, planned.name
        assert (planned.expects is None) == (backend != "flash")


def test_gated_goes_from_small_to_large() -> None:
    study = read("gated")
    sizes = {(planned.options["batch"], planned.options["seq"]) for planned in study.configurations}
    assert {1, 2, 4, 8, 12, 16, 32} == {batch for batch, _ in sizes}
    assert {512, 1024, 2048} == {seq for _, seq in sizes}
    assert (12, 2048) in sizes
    assert {1, 4, 16} == {planned.options["accumulate"] for planned in study.configurations}
    for planned in study.configurations:
        assert planned.options["batch"] % planned.options["accumulate"] == 0
    # A prediction needs the recorded costs of both recipes at two sizes.
    recorded = {planned.name for planned in study.configurations if planned.recording}
    assert set(products(["small", "large"], ["none", "hybrid", "current", "block"])) <= recorded


def test_stability_crosses_vocabularies_models_formats_and_margins() -> None:
    study = read("stability")
    models, delayed, others = ["transformer_layer", "custom", "fused"], ["e4m3", "hybrid"], ["none", "current", "block"]
    every = {*products(models, delayed, [0, 1, 2]), *products(models, others, [0])}
    assert set(names(study, "main")) == every
    found = {name.removeprefix("vocabulary:") for name in names(study, "vocabulary")}
    assert {f"50264-{name}" for name in every} == {name for name in found if name.startswith("50264")}
    assert found >= set(products([50288], ["custom"], [*delayed, *others], [0]))
    fails = {planned.name for planned in study.configurations if planned.expects is not None}
    assert fails == {name for name in names(study, "vocabulary") if ":50264" in name and "-none-" not in name}
    assert study.recording.arguments[0] == "--fp8"


@pytest.mark.parametrize("name", NOTES)
def test_fp8_is_looked_at_from_the_first_step_on(name: str) -> None:
    """A loss that is NaN in the first step has its first tensor there. Steps after the warm-up are recorded as ever."""
    from tetrace.record.options import window

    study = read(name)
    if "--fp8" not in study.recording.arguments:
        pytest.skip("looks at no numbers")
    run: Any = SimpleNamespace(study=study, measure=study.measure, options=SimpleNamespace(collector=None))
    said = list(recordings.options(run))
    last = {word: said[place + 1] for place, word in enumerate(said) if word in ("--steps", "--warmup")}
    chosen = window(last["--steps"], None, int(last["--warmup"]))
    assert chosen.first_step == 0
    assert chosen.last_step == int(last["--warmup"]) + study.recording.steps


@pytest.mark.parametrize("name", NOTES)
def test_quick_leaves_enough_to_compare(name: str) -> None:
    study = read(name)
    quick = study.chosen(study.quick_only)
    assert 4 <= len(quick) <= 8  # side by side on the GPU machine's cores: one start of processes, one of recordings
    assert {planned.baseline for planned in quick} & {planned.name for planned in quick}
    assert study.quick.rounds * study.quick.steps <= 240


@contextlib.contextmanager
def imported(name: str) -> Iterator[ModuleType]:
    """model.py of a study, on the CPU."""
    file = PROFILES / name / "model.py"
    path, before = list(sys.path), set(sys.modules)
    loader = importlib.util.spec_from_file_location(f"study_{name}", file)
    assert loader is not None
    assert loader.loader is not None
    with te_on_cpu.installed():
        model = importlib.util.module_from_spec(loader)
        try:
            loader.loader.exec_module(model)
            model.DEVICE = "cpu"
            if hasattr(model, "sdpa_kernel"):  # cuDNN's is the GPU's
                model.sdpa_kernel = lambda backend: contextlib.nullcontext()
            yield model
        finally:
            sys.path[:] = path
            for module in {"flops", "recipes"} & (set(sys.modules) - before):
                del sys.modules[module]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def small(name: str, planned: Planned) -> dict[str, Any]:
    """The options of a configuration, with small sizes; of 50,264 a vocabulary with the same remainder."""
    options = {**planned.options, **SMALL[name]}
    if name == "stability":
        options["vocabulary"] = 320 + planned.options["vocabulary"] % 32
    return options


def trained(model: ModuleType, options: dict[str, Any], steps: int = 2) -> tuple[Workload, list[float], list[str]]:
    torch.manual_seed(0)
    workload = model.build(**options)
    marks: list[str] = []
    losses = [workload.step(marks.append).item() for _ in range(steps)]
    return workload, losses, marks


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.usefixtures("plain")
def test_every_configuration_trains(name: str) -> None:
    done: dict[str, float] = {}
    with imported(name) as model:
        for planned in read(name).configurations:
            options = small(name, planned)
            if repr(options) in done:
                continue
            te_on_cpu.autocast.entered.clear()
            if planned.expects:
                if "flash" not in planned.name:
                    with pytest.raises(RuntimeError, match=planned.expects):
                        trained(model, options)
                continue
            workload, losses, marks = trained(model, options)
            assert all(map(math.isfinite, losses)), planned.name
            assert workload.tokens == options["batch"] * options["seq"]
            assert workload.flops
            phases = ["forward", "backward"] * options.get("accumulate", 1)
            assert marks == 2 * [*phases, *(["optimizer"] if name in ("gated", "stability") else [])]
            assert all(parameter.grad is None for parameter in workload.model.parameters())
            assert (te_on_cpu.autocast.entered[-1] is None) == (options["recipe"] == "none")
            done[repr(options)] = losses[-1]
    assert len(done) >= 4


@pytest.mark.usefixtures("plain")
def test_gated_refuses_micro_batches_that_leave_sequences_out() -> None:
    """Else 6 of 8 sequences would be trained and 8 counted."""
    with imported("gated") as model:
        options = {**small("gated", read("gated").configurations[0]), "batch": 8, "accumulate": 3}
        with pytest.raises(ValueError, match="batch = 8 is no multiple of accumulate = 3"):
            model.build(**options)
        assert model.build(**{**options, "accumulate": 4}).tokens == 8 * options["seq"]


@pytest.mark.usefixtures("plain")
def test_attention_says_which_flash_attention_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def version(package: str) -> str:
        if package != "flash-attn-4":
            raise PackageNotFoundError(package)
        return "4.0.0b11"

    options = small("attention", read("attention").configurations[0])
    with imported("attention") as model:
        monkeypatch.setattr(model, "version", version)
        assert model.build(**options).facts == {"FlashAttention installed": "flash-attn-4 4.0.0b11"}
        monkeypatch.setattr(model, "version", lambda package: version("none"))
        assert model.build(**options).facts == {"FlashAttention installed": "none"}


@pytest.mark.parametrize("name", ["gated", "stability"])
@pytest.mark.usefixtures("plain")
def test_a_language_model_learns_its_batch(name: str) -> None:
    planned = next(one for one in read(name).configurations if one.options["recipe"] == "none")
    with imported(name) as model:
        options = {**small(name, planned), "learning_rate": 1e-2}
        _, losses, _ = trained(model, options, 30)
    assert abs(losses[0] - math.log(options["vocabulary"])) < 0.7
    assert losses[-1] < losses[0] - 1


@pytest.mark.usefixtures("plain")
def test_what_is_compared_has_the_same_parameters() -> None:
    with imported("hybrid") as model:
        options = {"recipe": "none", "compiled": "nothing", **SMALL["hybrid"]}
        shapes = {
            approach: sum(one.numel() for one in model.build(approach=approach, **options).model.parameters())
            for approach in ("transformer_layer", "multihead_attention", "hybrid", "torch")
        }
    assert len(set(shapes.values())) == 1
    with imported("fusion") as model:
        plain = next(one for one in read("fusion").configurations if one.name == "unfused-none")
        counts = {
            modules: sum(
                one.numel() for one in model.build(**{**small("fusion", plain), "modules": modules}).model.parameters()
            )
            for modules in ("unfused", "fused")
        }
    assert len(set(counts.values())) == 1


@pytest.mark.usefixtures("plain")
def test_rotary_embedding_by_hand_is_transformer_engines() -> None:
    with imported("hybrid") as model:
        angles = te_on_cpu.RotaryPositionEmbedding(32)(16)
        x = torch.randn(2, 16, 4, 32)
        by_hand = model.apply_rope(x.transpose(1, 2), *(part.reshape(16, 32) for part in (angles.cos(), angles.sin())))
        torch.testing.assert_close(
            by_hand.transpose(1, 2), te_on_cpu.apply_rotary_pos_emb(x, angles, "bshd", fused=True)
        )


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.usefixtures("plain")
def test_flops_are_those_that_pytorch_counts(name: str) -> None:
    """Linears by PyTorch's own counter; attention, of which it counts the masked half too, apart."""
    from torch.utils.flop_counter import FlopCounterMode

    planned = read(name).configurations[0]
    options = small(name, planned)
    with imported(name) as model:
        workload = model.build(**options)
        with FlopCounterMode(display=False) as counter:
            workload.step(lambda phase: None)
        counts = counter.get_flop_counts()["Global"]
        linears = sum(count for operation, count in counts.items() if re.search(r"\.(add)?mm$", str(operation)))
        layers = options.get("layers", 1)
        pairs = options["batch"] * sum(range(1, options["seq"] + 1))
        assert workload.flops == linears + layers * 6 * 2 * pairs * options["hidden"]


def test_flops_of_the_notes_shapes() -> None:
    """By hand: attention's block at batch 32, sequence 256, hidden 4096."""
    with imported("attention") as model:
        import flops

        tokens, hidden = 32 * 256, 4096
        shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)]
        assert flops.linears(tokens, shapes) == 6 * 8192 * 12 * 4096**2 == 9_895_604_649_984
        assert flops.causal_attention(32, 256, hidden) == 12 * 32 * (256 * 257 // 2) * 4096 == 51_740_934_144
        assert model
