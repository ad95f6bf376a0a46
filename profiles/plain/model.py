"""Train a transformer of PyTorch alone in BF16, without Transformer Engine."""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload


class Block(torch.nn.Module):
    """Pre-norm causal self-attention and a GELU MLP."""

    def __init__(self, hidden: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(hidden), torch.nn.LayerNorm(hidden)
        self.qkv, self.proj = torch.nn.Linear(hidden, 3 * hidden), torch.nn.Linear(hidden, hidden)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(hidden, ffn), torch.nn.GELU(), torch.nn.Linear(ffn, hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        context = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(context.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


def main() -> None:
    args = workload.parse(workload.parser(__doc__))
    model = torch.nn.Sequential(*(Block(args.hidden, args.ffn, args.heads) for _ in range(args.layers)))
    model.to(device="cuda", dtype=torch.bfloat16)
    optimizer = workload.adamw(model)
    batch = workload.inputs(args)

    def step(span: workload.Span) -> None:
        with span("forward"):
            loss = workload.mean_square(model(batch))
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    workload.run(step, args)


if __name__ == "__main__":
    main()
