"""Train a te.TransformerLayer stack with DistributedDataParallel, one rank slowed down if asked.

torchrun --nproc-per-node 2 profiles/ddp/model.py --recipe delayed --straggler 1 5
"""

import os
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload

SPIN_CYCLES_PER_MS = 1_700_000


def main() -> None:
    parser = workload.parser(__doc__.splitlines()[0])
    parser.add_argument("--straggler", nargs=2, metavar=("RANK", "MS"), help="delay this rank in every step")
    parser.add_argument(
        "--straggler-kind",
        choices=("host", "gpu"),
        default="host",
        help="delay by a sleep of the host or by a spinning kernel",
    )
    args = workload.parse(parser)
    rank, device = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", device))
    if args.profiler:
        args.profiler = args.profiler.replace("RANK", str(rank))
    import transformer_engine.pytorch as te

    recipe = workload.fp8_recipe(args.recipe)
    group = torch.distributed.group.WORLD
    layers = torch.nn.Sequential(
        *(
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
    )
    model = torch.nn.parallel.DistributedDataParallel(layers, device_ids=[device])
    optimizer = workload.adamw(model)
    batch = workload.inputs(args)

    def straggle() -> None:
        if not args.straggler or rank != int(args.straggler[0]):
            return
        milliseconds = float(args.straggler[1])
        if args.straggler_kind == "host":
            time.sleep(milliseconds / 1e3)
        else:
            torch.cuda._sleep(int(milliseconds * SPIN_CYCLES_PER_MS))

    def step(span: workload.Span) -> None:
        with span("forward"):
            with te.autocast(enabled=recipe is not None, recipe=recipe, amax_reduction_group=group):
                output = model(batch)
            loss = workload.mean_square(output)
            straggle()
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()

    torch.distributed.barrier()
    workload.run(step, args)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
