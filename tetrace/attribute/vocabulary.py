"""What the text of a host range says: phase, step, module, direction. One ordered list of readings.

Sources of the spellings: Transformer Engine's Python ranges (NVTE_NVTX_ENABLED), its C ranges (`nvte_*`, always on),
autograd's `emit_nvtx`, the PyTorch profiler's annotations, FSDP's record_function names, and what people write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER, OTHER = range(5)
PHASES = ("forward", "recompute", "backward", "optimizer", "other", "unattributed")
UNATTRIBUTED = len(PHASES) - 1

OPTIMIZER_MODULE, LOSS_MODULE, CLIP_MODULE, SCALE_UPDATE_MODULE, INSPECTION_MODULE = (
    "(optimizer)",
    "(loss)",
    "(grad_clip)",
    "(scale_update)",
    "(fp8_inspection)",
)


@dataclass(frozen=True)
class Meaning:
    """What one range name says; the defaults say nothing.

    `phase` is an index of PHASES or -1. `step` is the number in the name, None when the range is no step, and -1 with
    `numbered` false when it is one without a number. `begins` names the module class whose forward or backward this
    range is, `part` the piece of it, `module` a module path. `c_call` marks Transformer Engine's C ranges, `operator`
    what frameworks name by operation; what is neither, and says nothing else, is a scope the user named. `kind` is that
    of a site of tetrace's instrumentation, `path` the module it says exactly, `role` the tensor or GEMM.
    """

    phase: int = -1
    step: int | None = None
    numbered: bool = False
    begins: str = ""
    part: str = ""
    module: str = ""
    c_call: bool = False
    operator: bool = False
    scope: bool = False
    kind: str = ""
    path: str = ""
    role: str = ""


_TE_CLASSES = {
    "Linear", "LayerNormLinear", "LayerNormMLP", "GroupedLinear", "DotProductAttention", "MultiheadAttention",
    "TransformerLayer", "LayerNorm", "RMSNorm", "OperationFuser", "GatedDeltaNetAttention", "GatedDeltaNet2Attention",
    "GatedDeltaProductAttention",
}  # fmt: skip
# Autograd functions of TE that are not called like the module they work for.
_FUNCTION_CLASSES = {
    "FusedAttnFunc": "DotProductAttention",
    "FusedAttn": "DotProductAttention",
    "FusedAttnFuncWithScoreMod": "DotProductAttention",
    "FusedAttentionWithScoreModFunc": "DotProductAttention",
    "FlashAttnFunc": "DotProductAttention",
    "AttnFuncWithCPAndKVP2P": "DotProductAttention",
    "AttnFuncWithCPAndKVAllGather": "DotProductAttention",
    "AttnFuncWithCPAndQKVOA2A": "DotProductAttention",
    "OperationFuserAutogradFunction": "OperationFuser",
}

_TE_PART = re.compile(r"^transformer_engine\.(?P<function>\w+)\.(?P<way>forward|backward)(?:\.(?P<rest>.+))?$")
_TE_FORWARD = re.compile(r"^(?P<module>[A-Z]\w*) forward$")
_TE_BACKWARD = re.compile(r"^_?(?P<function>[A-Z]\w*?)[._](?P<way>forward|backward|wgrad)$")
_EVALUATE = "autograd::engine::evaluate_function: "
_GRAD_NODE = re.compile(r"^(?P<function>\w*?)Backward\d*$")
_PROFILER_STEP = re.compile(r"^ProfilerStep[#*]?\s*(?P<number>\d+)?$")
_FSDP = re.compile(r"^FSDP::(?P<what>\w+)(?: \((?P<path>[^)]*)\))?")
_MODULE = "nn.Module: "
_OPERATOR = re.compile(
    r"^([\w.]+::|nccl[A-Z:]|record_param_comms|\{|##|Torch-Compiled|TorchDynamo|Pregraph|AOTDispatcher|Compiled|Inductor"
    r"|triton_|cu(da|blas|dnn|sparse|fft|BLAS|DNN)|Memcpy|Memset|DataLoader|enumerate\()"
)
_STEP = re.compile(
    r"^(?:[a-z]+[ _.:-]+){0,2}?(?:global[ _-]?)?(?:step|iteration|iter|itr|batch)s?[ _#:=.\[(-]*?(?P<number>-?\d+)[\])]?"
    r"(?:\s*/\s*\d+)?(?:[ _:,(-].*)?$",
    re.IGNORECASE,
)
_BARE_STEP = re.compile(r"^(?:train(?:ing)?[ _.-]?)?(?:step|iteration|iter)$", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_LONGEST_PHRASE = 6

_PHASE_WORDS: tuple[tuple[int, frozenset[str]], ...] = (
    (RECOMPUTE, frozenset({"recompute", "recomputation", "rematerialize"})),
    (OPTIMIZER, frozenset({"optimizer", "optim", "adam", "adamw", "sgd", "unscale"})),
    (BACKWARD, frozenset({"backward", "bwd", "bprop", "backprop", "backpropagation", "backwards"})),
    (FORWARD, frozenset({"forward", "fwd", "fprop", "loss", "criterion"})),
    (OTHER, frozenset({"dataloader", "dataloading", "validation", "validate", "eval", "evaluate"})),
)
# Phrases no word of which says it alone: CLIP and OPT are models too.
_PHRASES: tuple[tuple[int, str, tuple[frozenset[str], ...]], ...] = (
    (OPTIMIZER, CLIP_MODULE, tuple(frozenset(p.split()) for p in ("clip grad", "clip grads", "clip norm", "clip gradients",
                                                                  "gradient clipping", "grad clipping", "grad norm"))),
    (OPTIMIZER, OPTIMIZER_MODULE, tuple(frozenset(p.split()) for p in ("zero grad", "update weights", "weight update", "opt step",
                                                                       "update parameters", "update params"))),
    (OTHER, "", tuple(frozenset(p.split()) for p in ("data loading", "load data", "get batch", "next batch", "fetch batch"))),
)  # fmt: skip


def _nvte(name: str) -> Meaning | None:
    return Meaning(c_call=True) if name.startswith("nvte_") else None


def _te_part(name: str) -> Meaning | None:
    match = _TE_PART.match(name)
    if not match:
        return None
    way = FORWARD if match["way"] == "forward" else BACKWARD
    part = (match["rest"] or "").rsplit(".", 1)[-1]
    if part == "reduce_and_update_fp8_tensors":
        return Meaning(phase=way, part=part)
    return Meaning(phase=way, part=part, begins=_class_of(match["function"]))


def _te_module(name: str) -> Meaning | None:
    forward, backward = _TE_FORWARD.match(name), _TE_BACKWARD.match(name)
    if forward:
        return Meaning(phase=FORWARD, begins=forward["module"])
    if backward:
        way = FORWARD if backward["way"] == "forward" else BACKWARD
        return Meaning(
            phase=way, begins=_class_of(backward["function"]), part="wgrad" if backward["way"] == "wgrad" else ""
        )
    return None


def _autograd(name: str) -> Meaning | None:
    evaluated = name.startswith(_EVALUATE)
    node = _GRAD_NODE.match(name[len(_EVALUATE) :] if evaluated else name)
    if node and node["function"].lstrip("_").startswith("CheckpointFunction"):
        # Its backward runs the forward again; the backward of what it ran is named inside it.
        return Meaning(phase=RECOMPUTE, operator=True)
    if node:
        begins = _class_of(node["function"])
        return Meaning(phase=BACKWARD, operator=True, begins=begins if _is_te_function(node["function"]) else "")
    if evaluated or name.startswith(("torch::autograd::", "torch.autograd.")):
        return Meaning(phase=BACKWARD, operator=True)
    if _is_te_function(name):
        return Meaning(phase=FORWARD, operator=True, begins=_class_of(name))
    return None


def _annotation(name: str) -> Meaning | None:
    step = _PROFILER_STEP.match(name)
    if step:
        return Meaning(step=int(step["number"] or -1), numbered=step["number"] is not None)
    if name.startswith(("Optimizer.step", "Optimizer.zero_grad")):
        return Meaning(phase=OPTIMIZER, module=OPTIMIZER_MODULE)
    fsdp = _FSDP.match(name)
    if fsdp:
        way = BACKWARD if "backward" in fsdp["what"] else FORWARD if "forward" in fsdp["what"] else -1
        return Meaning(phase=way, module=fsdp["path"] or "", operator=True)
    if name.startswith(_MODULE):
        return Meaning(module=name[len(_MODULE) :])
    return None


def _operator(name: str) -> Meaning | None:
    return Meaning(operator=True) if _OPERATOR.match(name) else None


def _phrase(name: str) -> Meaning | None:
    """What people write: `forward`, `Optimizer step`, `bwd_pass`; a name of both ways says neither."""
    words = {word.lower() for word in _WORDS.findall(name)}
    if not words or len(words) > _LONGEST_PHRASE:
        return None
    for phase, module, phrases in _PHRASES:
        if any(phrase <= words for phrase in phrases):
            return Meaning(phase=phase, module=module)
    said = [phase for phase, known in _PHASE_WORDS if words & known]
    if said and said[0] == RECOMPUTE:
        said = [RECOMPUTE]
    if len(said) != 1:
        return Meaning(scope=True) if said else None
    module = LOSS_MODULE if words & {"loss", "criterion"} else OPTIMIZER_MODULE if said[0] == OPTIMIZER else ""
    return Meaning(phase=said[0], module=module)


def _step(name: str) -> Meaning | None:
    if "micro" in name.lower():
        return None
    if _BARE_STEP.match(name):
        return Meaning(step=-1)
    match = _STEP.match(name)
    return Meaning(step=int(match["number"]), numbered=True) if match else None


# The first reading that knows the name decides: TE's spellings are exact, people's are not.
_READINGS: tuple[Callable[[str], Meaning | None], ...] = (
    _nvte, _te_part, _te_module, _annotation, _autograd, _operator, _phrase, _step,
)  # fmt: skip


@functools.lru_cache(maxsize=65536)
def meaning(name: str) -> Meaning:
    """What the range name `name` says."""
    name = name[:512].strip()
    for reading in _READINGS:
        found = reading(name)
        if found is not None:
            return found
    return Meaning(scope=bool(name))


def _class_of(function: str) -> str:
    plain = function.lstrip("_")
    return _FUNCTION_CLASSES.get(plain, plain)


def _is_te_function(function: str) -> bool:
    plain = function.lstrip("_")
    return plain in _FUNCTION_CLASSES or (function.startswith("_") and plain in _TE_CLASSES)
