"""Train a stack of te.TransformerLayer: any FP8 recipe, CUDA graphs, recomputation, gradient accumulation."""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--graphs", action="store_true", help="replay every layer from a CUDA graph")
    parser.add_argument("--checkpoint", action="store_true", help="recompute every layer in the backward")
    parser.add_argument("--accumulate", type=int, default=1, metavar="K", help="micro-batches a step")
    parser.add_argument(
        "--cache-weights",
        action="store_true",
        help="pass is_first_microbatch, so that FP8 weights are cast once a step",
    )
    args = workload.parse(parser)
    import transformer_engine.pytorch as te

    recipe = workload.fp8_recipe(args.recipe)
    layers = torch.nn.ModuleList(
        te.TransformerLayer(
            args.hidden,
            args.ffn,
            args.heads,
            layer_number=index + 1,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            self_attn_mask_type="causal",
            attn_input_format="bshd",
            params_dtype=torch.bfloat16,
        )
        for index in range(args.layers)
    )
    batch = workload.inputs(args)
    calls = list(layers)
    if args.graphs:
        samples = tuple((torch.randn_like(batch, requires_grad=True),) for _ in calls)
        calls = te.make_graphed_callables(
            tuple(calls), samples, enabled=recipe is not None, recipe=recipe, cache_quantized_params=args.cache_weights
        )
    optimizer = workload.adamw(layers)

    def forward(micro_batch: int) -> torch.Tensor:
        hidden = batch
        extra = {"is_first_microbatch": micro_batch == 0} if args.cache_weights else {}
        with te.autocast(enabled=recipe is not None, recipe=recipe):
            for call in calls:
                hidden = te.checkpoint(call, hidden, **extra) if args.checkpoint else call(hidden, **extra)
        return workload.mean_square(hidden)

    def step(span: workload.Span) -> None:
        for micro_batch in range(args.accumulate):
            with span("forward"):
                loss = forward(micro_batch)
            with span("backward"):
                loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    workload.run(step, args)


if __name__ == "__main__":
    main()
