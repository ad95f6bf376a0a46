"""High-precision tensors that never exist, made once more on request: what a norm or an activation that casts in the same
call would have written without its quantizer.

Transformer Engine calls the same function without a quantizer wherever it does not fuse, so that this is what the script
would have computed itself. There is no randomness in these functions; they are called on the script's stream, outside of
autograd, with the tensors that the script's own call was given. It costs that call again, and its result's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tetrace.instrument import quantization

# Where these are given a tensor to write to: the place before the quantizer's.
_NORMS = ("layernorm_fwd", "rmsnorm_fwd")
_WITH_BIAS_GRADIENT = "dbias_"
# They take a quantizer in every case, or scale what they return.
_NEVER = ("scaled_",)


def high_precision(name: str, place: int, args: tuple[Any, ...], named: Mapping[str, Any] | None) -> Any:
    """What the call `name` would have made of `args` before the cast; None where it cannot be made again.

    `place` is that of the quantizer among the arguments.
    """
    plain = quantization.plain_calls.get(name.removeprefix(_WITH_BIAS_GRADIENT))
    if plain is None or name.startswith(_NEVER) or len(args) <= place:
        return None
    given = list(args)
    given[place] = None
    if name in _NORMS:
        given[place - 1] = None
    made = plain(*given, **(named or {}))
    return made[0] if isinstance(made, list | tuple) else made
