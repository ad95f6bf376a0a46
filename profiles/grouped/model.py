"""Train blocks of a mixture of experts on te.GroupedLinear (top 2, balanced) and a dense MLP of te.ops."""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload

TOP_K = 2


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--experts", type=int, default=4)
    args = workload.parse(parser)
    import transformer_engine.pytorch as te

    dtype = torch.bfloat16
    tokens = args.batch * args.seq
    splits = [tokens * TOP_K // args.experts] * args.experts

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = te.GroupedLinear(args.experts, args.hidden, args.ffn, params_dtype=dtype)
            self.down = te.GroupedLinear(args.experts, args.ffn, args.hidden, params_dtype=dtype)
            first = torch.randperm(tokens, device="cuda") % args.experts
            self.index = torch.stack([(first + k) % args.experts for k in range(TOP_K)], dim=1).int()
            self.weights = torch.full((tokens, TOP_K), 1 / TOP_K, device="cuda")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, row_map = te.moe_permute(x, self.index, tokens * TOP_K, tokens, map_type="index")
            rows = self.down(torch.nn.functional.gelu(self.up(rows, splits)), splits)
            return x + te.moe_unpermute(rows, row_map, self.weights, map_type="index")

    def dense() -> torch.nn.Module:
        return te.ops.Sequential(
            te.ops.LayerNorm(args.hidden, dtype=dtype),
            te.ops.Linear(args.hidden, args.ffn, dtype=dtype),
            te.ops.GELU(),
            te.ops.Linear(args.ffn, args.hidden, dtype=dtype),
        )

    recipe = workload.fp8_recipe(args.recipe)
    experts = torch.nn.ModuleList(Experts() for _ in range(args.layers))
    mlps = torch.nn.ModuleList(dense() for _ in range(args.layers))
    optimizer = workload.adamw(torch.nn.ModuleList([experts, mlps]))
    batch = workload.inputs(args).flatten(0, 1).detach().requires_grad_()

    def step(span: workload.Span) -> None:
        with span("forward"):
            hidden = batch
            with te.autocast(enabled=recipe is not None, recipe=recipe):
                for block, mlp in zip(experts, mlps, strict=True):
                    hidden = block(hidden)
                    hidden = hidden + mlp(hidden)
            loss = workload.mean_square(hidden)
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    workload.run(step, args)


if __name__ == "__main__":
    main()
