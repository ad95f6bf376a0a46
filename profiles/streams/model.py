"""Train with two dependent streams and a synchronization: batches are copied and prepared on a side stream that the
main stream waits for, and every step reads its loss with .item()."""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import workload


def main() -> None:
    args = workload.parse(workload.parser(__doc__))
    import transformer_engine.pytorch as te

    dtype = torch.bfloat16
    model = torch.nn.Sequential()
    for _ in range(args.layers):
        model.append(torch.nn.LayerNorm(args.hidden, device="cuda", dtype=dtype))
        model.append(te.Linear(args.hidden, args.ffn, params_dtype=dtype))
        model.append(torch.nn.GELU())
        model.append(torch.nn.Linear(args.ffn, args.hidden, device="cuda", dtype=dtype))
    optimizer = workload.adamw(model)
    host_batch = torch.randn(args.batch, args.seq, args.hidden, dtype=dtype).pin_memory()
    mixing = torch.randn(args.hidden, args.hidden, dtype=dtype, device="cuda") / args.hidden**0.5
    side, prepared, consumed = torch.cuda.Stream(), torch.cuda.Event(), torch.cuda.Event()

    def prepare() -> torch.Tensor:
        """The next batch, on the side stream, once the main stream has taken the batch before it."""
        with torch.cuda.stream(side):
            side.wait_event(consumed)
            batch = (host_batch.to("cuda", non_blocking=True) @ mixing).tanh()
            prepared.record(side)
        return batch

    def step(span: workload.Span) -> None:
        with span("prepare"):
            batch = prepare()
            main_stream = torch.cuda.current_stream()
            main_stream.wait_event(prepared)
            batch.record_stream(main_stream)
        with span("forward"):
            loss = workload.mean_square(model(batch))
            consumed.record()
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        with span("log"):
            loss.item()

    workload.run(step, args)


if __name__ == "__main__":
    main()
