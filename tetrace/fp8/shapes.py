"""Which linears of a model have dimensions that Transformer Engine's FP8 GEMMs do not take, before anything runs.

Classes are known by name and module, parameters by `shape`: neither torch nor Transformer Engine is imported.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tetrace.errors import UsageError
from tetrace.fp8.shape_rules import (
    DELAYED,
    IN_FEATURES,
    KNOWN_VERSION,
    RULES,
    SCALING_OF,
    SCALINGS,
    WGRAD,
    Rule,
    is_tn_only,
    version_of,
)

if TYPE_CHECKING:
    import pandas as pd

TokensOf = int | Mapping[str, int | Sequence[int]]

_HOPPER = 90
_MODULES, _OPERATIONS = ("Linear", "LayerNormLinear", "LayerNormMLP", "GroupedLinear"), ("BasicLinear", "GroupedLinear")


@dataclass(frozen=True)
class Linear:
    """A matrix product of a model. `tokens` are its input's rows, all dimensions before the last together; for the groups
    of a GroupedLinear those of one group. `name` is its class, empty for one that is not known; `fp8` is false for a
    linear of torch, which runs outside FP8 whatever the autocast. `checks_input` is false for the second of an MLP, of which
    only the weight is checked before anything runs."""

    module: str
    name: str
    tokens: int
    in_features: int
    out_features: int
    scaling: str = DELAYED
    fp8: bool = True
    has_wgrad: bool = True
    checks_input: bool = True

    def value(self, dimension: str) -> int:
        """The dimension of that name."""
        return int(getattr(self, dimension))


@dataclass(frozen=True)
class ShapeRow:
    """One dimension of one GEMM against its rule. `padded` is the next value that all rules of the linear take; `error`
    is what Transformer Engine raises, empty where the dimension fits."""

    module: str
    module_class: str
    fp8: bool
    scaling: str
    gemm: str
    phase: str
    dimension: str
    value: int
    divisor: int
    padded: int
    error: str

    @property
    def fits(self) -> bool:
        """Whether the dimension is divisible."""
        return not self.error


@dataclass(frozen=True)
class ShapeReport:
    """Every dimension of every FP8 GEMM, in the order of modules and, within one, of a step.

    `capability` is of the GPU it was checked for (90 is Hopper), `version` of Transformer Engine.
    """

    rows: tuple[ShapeRow, ...]
    version: str
    capability: int

    @property
    def failures(self) -> tuple[ShapeRow, ...]:
        """What a run in FP8 would raise."""
        return tuple(row for row in self.rows if row.fp8 and not row.fits)

    @property
    def outside(self) -> tuple[ShapeRow, ...]:
        """What keeps linears of torch from being Transformer Engine's under this recipe."""
        return tuple(row for row in self.rows if not row.fp8 and not row.fits)

    def raises(self, module: str | None = None) -> ShapeRow | None:
        """What fails first in a step of a module, or of the model, whose backward goes from its last module to its first.
        None where nothing fails."""
        own = [row for row in self.failures if module in (None, row.module)]
        forward = next((row for row in own if row.phase == "forward"), None)
        return forward or next((row for row in own if row.module == own[-1].module), None)

    def to_pandas(self) -> pd.DataFrame:
        """One row a dimension."""
        import dataclasses

        import pandas as pd

        columns = [field.name for field in dataclasses.fields(ShapeRow)]
        return pd.DataFrame([dataclasses.astuple(row) for row in self.rows], columns=columns)

    def __str__(self) -> str:
        fp8 = sum(row.fp8 for row in self.rows)
        if not fp8:
            linears = len({row.module for row in self.rows})
            of_torch = (
                f"none of the model's {linears} linears is Transformer Engine's; make them te.Linear, under te.autocast"
            )
            return f"Nothing would run in FP8: {of_torch if linears else 'the model has no linear'}."
        if not self.failures:
            return f"All {fp8} dimensions of FP8 GEMMs fit."
        return "\n".join(sentence(row) for row in self.failures)


def sentence(row: ShapeRow) -> str:
    """A failure in one line."""
    return (
        f"{row.module or '(model)'}: {row.dimension}={row.value} is not divisible by {row.divisor} ({row.gemm}, "
        f"{row.phase}); use {row.padded}. {row.error}"
    )


def check_shapes(
    model: Any,
    tokens: TokensOf,
    *,
    recipe: Any = DELAYED,
    capability: int | None = None,
    version: str | None = None,
) -> ShapeReport:
    """Every FP8 GEMM dimension of `model`, forward, dgrad and wgrad, against the rules of `recipe`; nothing is run.

    `tokens`: rows of the modules' inputs, the product of all dimensions but the last (batch x sequence); with sequence or
    tensor parallelism of one rank. Or a number by pattern of paths, `{"*": 4096, "*.experts.*": [512, 0, 1024]}`, the
    last that matches counts; a list is the rows of each group of a GroupedLinear.
    `recipe`: `delayed`, `current`, `block`, `mxfp8`, `nvfp4`, or a recipe of Transformer Engine or its class's name.
    `capability`: of the GPU, as 90; by default of the GPU that the model is on, or Hopper's. `version`: of Transformer
    Engine, which decides the error; by default of the one that is imported, or the last known.
    Linears of torch are listed too, with `fp8` false: what would stop them from being Transformer Engine's.

    Raises `UsageError` for what is no model, for a recipe that is not known, and for `tokens` that no number can be.
    """
    if isinstance(model, type) or not hasattr(model, "named_modules"):
        given = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise UsageError(f"the model is a {given}; give a torch.nn.Module")
    version = version or str(getattr(sys.modules.get("transformer_engine"), "__version__", "") or KNOWN_VERSION)
    found = _linears(model, tokens, scaling_of(recipe))
    return report(found, version, _capability(model) if capability is None else capability)


def scaling_of(recipe: Any) -> str:
    """`delayed`, `current`, ... of a recipe, its class, or a name of either. Raises `UsageError`."""
    kind = recipe if isinstance(recipe, type) else type(recipe)
    names = [recipe] if isinstance(recipe, str) else [base.__name__ for base in kind.__mro__]
    for name in names:
        if name in SCALINGS or name in SCALING_OF:
            return SCALING_OF.get(name, name)
    raise UsageError(f"recipe {names[0]}: not known; give {', '.join(SCALINGS)} or a recipe of Transformer Engine")


def report(linears: Iterable[Linear], version: str, capability: int) -> ShapeReport:
    """The linears against all rules that hold for them on that GPU."""
    rows = [row for linear in linears for row in _rows(linear, version, capability)]
    return ShapeReport(tuple(rows), version, capability)


def _rows(linear: Linear, version: str, capability: int) -> Iterator[ShapeRow]:
    rules = [rule for rule in RULES if _holds(rule, linear, capability)]
    strictest: dict[str, int] = {}
    for rule in rules:
        strictest[rule.dimension] = max(strictest.get(rule.dimension, 1), rule.divisor)
    for rule in rules:
        value, needed = linear.value(rule.dimension), strictest[rule.dimension]
        yield ShapeRow(
            module=linear.module,
            module_class=linear.name,
            fp8=linear.fp8,
            scaling=linear.scaling,
            gemm=rule.gemm,
            phase=rule.phase,
            dimension=rule.dimension,
            value=value,
            divisor=rule.divisor,
            padded=-(-value // needed) * needed,
            error="" if value % rule.divisor == 0 else _error(rule, linear, version),
        )


def _holds(rule: Rule, linear: Linear, capability: int) -> bool:
    if linear.scaling not in rule.scalings or linear.name not in rule.classes:
        return False
    if rule.gemm == WGRAD and not linear.has_wgrad:
        return False
    return rule.tn_only is None or rule.tn_only == is_tn_only(capability)


def _error(rule: Rule, linear: Linear, version: str) -> str:
    error = rule.error(version_of(version))
    of_weight = rule.tensor == "weight" or (rule.dimension == IN_FEATURES and not linear.checks_input)
    leading = linear.out_features if of_weight else linear.tokens
    dims = [leading, linear.in_features]
    return f"{error.kind}: {error.text.format(dims=dims, leading=leading, last=linear.in_features)}"


def _linears(model: Any, tokens: TokensOf, scaling: str) -> Iterator[Linear]:
    for path, module in model.named_modules():
        name = _known_class(module)
        if name is None:
            continue
        for linear in _products(path, module, name):
            for rows in _tokens_of(path, tokens):
                yield replace(linear, tokens=rows, scaling=scaling)


def _known_class(module: Any) -> str | None:
    """The class of Transformer Engine that a module is; `torch` for torch's linear, None for all others."""
    for base in type(module).__mro__:
        package = base.__module__.partition(".")[0]
        # te.ops.Linear only holds a BasicLinear.
        is_operation = ".ops." in base.__module__
        if package == "transformer_engine" and base.__name__ in (_OPERATIONS if is_operation else _MODULES):
            return base.__name__
        if package == "torch" and base.__name__ == "Linear":
            return "torch"
    return None


def _products(path: str, module: Any, name: str) -> Iterator[Linear]:
    """The linears of a module: two in an MLP, one in all others."""
    parameters = dict(module.named_parameters(recurse=False))
    if name == "LayerNormMLP":
        for part in ("fc1", "fc2"):
            weight = parameters.get(f"{part}_weight")
            if weight is not None:
                linear = _product(f"{path}.{part}".lstrip("."), name, weight.shape[0], weight.shape[1], [weight])
                yield replace(linear, checks_input=part == "fc1")
        return
    # Of a GroupedLinear `weight0` and so on, of a linear that is split by name `query_weight` and the like.
    weights = [one for key, one in parameters.items() if "weight" in key and len(one.shape) >= 2]
    out_features, in_features = getattr(module, "out_features", 0), getattr(module, "in_features", 0)
    if len(weights) == 1 and len(weights[0].shape) == 2:
        # Of a linear that is split over ranks this is the part of this one.
        out_features, in_features = weights[0].shape
    yield _product(path, name, out_features, in_features, weights)


def _product(path: str, name: str, out_features: int, in_features: int, weights: Sequence[Any]) -> Linear:
    return Linear(
        module=path,
        # As it would be checked if it were Transformer Engine's.
        name="Linear" if name == "torch" else name,
        tokens=0,
        in_features=int(in_features),
        out_features=int(out_features),
        fp8=name != "torch",
        has_wgrad=not weights or any(getattr(weight, "requires_grad", True) for weight in weights),
    )


def _tokens_of(path: str, tokens: TokensOf) -> list[int]:
    """Rows of a module's input, each number once; several for the groups of a GroupedLinear."""
    found: Any = tokens
    if isinstance(tokens, Mapping):
        matching = [rows for pattern, rows in tokens.items() if fnmatch.fnmatchcase(path, pattern)]
        if not matching:
            raise UsageError(f"tokens says nothing of module {path or '(model)'}; add '*': with the rows of all others")
        found = matching[-1]
    numbers = list(dict.fromkeys(found)) if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers) or not any(numbers):
        raise UsageError(
            f"tokens={found!r} for module {path or '(model)'}: give the rows of its input, as batch x sequence"
        )
    return [one for one in numbers if one]


def _capability(model: Any) -> int:
    """10 x major + minor of the GPU that the model is on; Hopper's where it is on none."""
    device = next((one.device for one in model.parameters() if getattr(one.device, "type", "") == "cuda"), None)
    torch = sys.modules.get("torch")
    if device is None or torch is None:
        return _HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * int(major) + int(minor)
