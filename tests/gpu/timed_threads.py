"""Small models that train at once, each in a thread and on a stream of its own, all modules timed: for compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/gpu/timed_threads.py THREADS

It prints how many calls of modules were measured.
"""

from __future__ import annotations

import sys
import threading

import torch

import tetrace

STEPS = 6


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).cuda()


def train(net: torch.nn.Module) -> None:
    optimizer, stream = torch.optim.SGD(net.parameters(), 0.1), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(STEPS):
            net(torch.ones(8, 64, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    stream.synchronize()


def main() -> None:
    nets = torch.nn.ModuleList(model() for _ in range(int(sys.argv[1])))
    with tetrace.timer(nets, every=1, show=False) as timer:
        threads = [threading.Thread(target=train, args=(net,)) for net in nets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    table = timer.table()
    own = table[~table["module"].str.startswith("(")]
    sys.stdout.write(f"{int(own['count'].sum())}\n")


if __name__ == "__main__":
    main()
