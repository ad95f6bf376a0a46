"""Train blocks that mix Transformer Engine's linears with PyTorch's attention (cuDNN) and a plain rotary embedding."""

import pathlib
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload


def rotary_tables(seq: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device="cuda") / dim)
    angle = torch.outer(torch.arange(seq, device="cuda"), frequency)
    return angle.cos().bfloat16()[:, None], angle.sin().bfloat16()[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x.chunk(2, dim=-1)
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)


def split_heads(qkv: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[batch, seq, 3 * hidden] to rotated queries and keys, and values, each [batch, heads, seq, dim]."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
    return tuple(x.transpose(1, 2).contiguous() for x in (rotate(query, cos, sin), rotate(key, cos, sin), value))


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="compile the rotary embedding and the reshapes")
    args = workload.parse(parser)
    import transformer_engine.pytorch as te

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dtype = torch.bfloat16
            self.qkv = te.LayerNormLinear(args.hidden, 3 * args.hidden, params_dtype=dtype)
            self.proj = te.Linear(args.hidden, args.hidden, params_dtype=dtype)
            self.mlp = te.LayerNormMLP(args.hidden, args.ffn, params_dtype=dtype)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            query, key, value = split(self.qkv(hidden), args.heads, cos, sin)
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                context = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + self.proj(context.transpose(1, 2).flatten(2))
            return hidden + self.mlp(hidden)

    split = torch.compile(split_heads) if args.compile else split_heads
    cos, sin = rotary_tables(args.seq, args.hidden // args.heads)
    recipe = workload.fp8_recipe(args.recipe)
    model = torch.nn.Sequential(*(Block() for _ in range(args.layers)))
    optimizer = workload.adamw(model)
    batch = workload.inputs(args)

    def step(span: workload.Span) -> None:
        with span("forward"):
            with te.autocast(enabled=recipe is not None, recipe=recipe):
                output = model(batch)
            loss = workload.mean_square(output)
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    workload.run(step, args)


if __name__ == "__main__":
    main()
