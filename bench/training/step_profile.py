"""Profile of a training step: ``python -m fpl_fast.bench.training.step_profile``.

CPS with CutMix and FPL, as (c) of ``fpl-fast bench train``: as it is, on a GPU also as one CUDA graph, in which no
kernel waits for the host, and with compiled networks. Host, wall and kernels of a step tell whether a GPU waits.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch

from fpl_fast.bench.measure import synchronize
from fpl_fast.bench.trace import trace_launches
from fpl_fast.bench.training.peers import Peer, Setup, default_setup, make_peer

__all__ = ["main", "profile_step"]

_WARM_UP, _STEPS, _ROUNDS = 4, 6, 3
_KERNELS, _NAME_LENGTH = 25, 100


def main(arguments: list[str] | None = None) -> int:
    """Profile each form of the step and print it as soon as it is known."""
    parser = argparse.ArgumentParser(description="Host, wall and kernels of a step of training.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="default: cuda")
    setup = default_setup(parser.parse_args(arguments).device)
    for name, step in _steps(setup):
        sys.stdout.write(profile_step(name, step, torch.device(setup.device)))
        sys.stdout.flush()
    return 0


def profile_step(name: str, step: Callable[[], object], device: torch.device) -> str:
    """Time a step and sum its kernels; several steps follow each other, as in training.

    Returns:
        Lines of text.
    """
    start = time.perf_counter()
    for _ in range(_WARM_UP):
        step()
    synchronize(device)
    first_s = time.perf_counter() - start
    host, wall = [], []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_STEPS):
            step()
        host.append((time.perf_counter() - start) / _STEPS)
        synchronize(device)
        wall.append((time.perf_counter() - start) / _STEPS)
    launches = trace_launches(step, device)
    number, busy_us = sum(x.number for x in launches), sum(x.total_us for x in launches)
    return "".join(
        f"{line}\n"
        for line in (
            f"## {name}: {1e3 * statistics.median(wall):.1f} ms a step, of which the host enqueues for "
            f"{1e3 * statistics.median(host):.1f} ms",
            f"  {number} launches, {1e-3 * busy_us:.1f} ms of kernels; first {_WARM_UP} steps {first_s:.1f} s",
            *(
                f"  {x.number:5d} x {x.total_us / x.number:9.1f} us  {x.name[:_NAME_LENGTH]}"
                for x in launches[:_KERNELS]
            ),
        )
    )


def _steps(setup: Setup) -> Iterator[tuple[str, Callable[[], object]]]:
    peer = make_peer(setup, compile=False)
    yield "as it is", peer.step
    if setup.device == "cuda":
        yield "one graph", _captured(peer).replay
        yield "compiled networks", make_peer(setup, compile=True).step


def _captured(peer: Peer) -> torch.cuda.CUDAGraph:
    """Capture a whole step: every replay sees the same batch at the same progress, which is of use for timing alone."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            peer.step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        peer.step()
    return graph


if __name__ == "__main__":
    sys.exit(main())
