"""The loss on cores that other processes compute on, too: ``python -m fpl_fast.bench.shared_cores``."""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import torch

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.measure import peak_memory_mb
from fpl_fast.bench.peers import PEERS
from fpl_fast.bench.peers.distances import PLAIN, distance_peers
from fpl_fast.bench.peers.peer import LossOfStudent, Peer
from fpl_fast.bench.suites import selection
from fpl_fast.kernels.arguments import Distance

__all__ = ["main"]

_FUZZY = "fuzzy_positive"
_CPU = torch.device("cpu")


def main(arguments: list[str] | None = None) -> int:
    """Time loss and gradient of the peers in turn, beside so many busy processes, and print a table of each case."""
    parser = argparse.ArgumentParser(description="Time the loss while other processes compute on the same cores.")
    parser.add_argument("--loss", default=_FUZZY, choices=[_FUZZY, *get_args(Distance)], help="mse, kl: consistency")
    parser.add_argument("--peers", nargs="+", help="compiled, eager and, of the fuzzy positive loss, public")
    parser.add_argument("--threads", type=_number(1), nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=_number(0), nargs="+", default=[0, 1, 2], help="processes that compute beside")
    parser.add_argument("--side", type=_number(4), default=512, help="pixels; with upsampling, logits have a quarter")
    parser.add_argument("--rounds", type=_number(1), default=9)
    options = parser.parse_args(arguments)
    (full, *_), (upsampled, *_) = (selection(x, "headline", "cpu") for x in ("fuzzy_positive", "upsampling"))
    side, low = options.side, options.side // 4
    cases = (
        replace(full.case, shape=(*full.case.shape[:2], side, side)),
        replace(upsampled.case, shape=(*upsampled.case.shape[:2], low, low), size=(side, side)),
    )
    yardstick = "argmax_cross_entropy" if options.loss == _FUZZY else PLAIN
    known = {peer.name: peer for peer in (PEERS if options.loss == _FUZZY else distance_peers(options.loss))}
    names = options.peers or [name for name in ("compiled", "eager", "public") if name in known]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--peers must be among {', '.join(known)} with --loss {options.loss}, got {unknown[0]}")
    peers = [known[name] for name in dict.fromkeys([yardstick, *names])]  # the first is the yardstick
    before = torch.get_num_threads()
    try:
        for case in cases:
            title = f"{case}" if options.loss == _FUZZY else f"{options.loss}, {case}"
            _compare(title, case, peers, options.threads, options.busy, options.rounds)
    finally:
        torch.set_num_threads(before)
    return 0


def _number(least: int) -> Callable[[str], int]:
    """Parser of whole numbers from ``least`` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text}")
        return int(text)

    return parse


def _compare(title: str, case: Case, peers: list[Peer], threads: list[int], busy: list[int], rounds: int) -> None:
    """Print milliseconds (median and slowest), their ratio to the first peer's of the same round, and memory."""
    inputs = make_inputs(case, _CPU)
    losses = {peer.name: peer.bind(case, inputs) for peer in peers}
    memory = {name: peak_memory_mb(partial(_step, loss, inputs.student), _CPU) for name, loss in losses.items()}
    names, yardstick = list(losses), peers[0].name
    _write(f"\n{title}; peak memory, MB: " + ", ".join(f"{name} {mb:.0f}" for name, mb in memory.items()))
    _write(f"| busy processes | threads | peer | median, ms | slowest, ms | ÷ {yardstick} | load before, after |")
    _write("|--:|--:|---|--:|--:|--:|---|")
    for number in busy:
        load = os.getloadavg()[0]
        with _busy_processes(number):
            seconds: dict[tuple[int, str], list[float]] = {(t, name): [] for t in threads for name in names}
            for _ in range(rounds):
                for (num_threads, name), durations in seconds.items():
                    torch.set_num_threads(num_threads)
                    begin = time.perf_counter()
                    _step(losses[name], inputs.student)
                    durations.append(time.perf_counter() - begin)
        loads = f"{load:.1f}, {os.getloadavg()[0]:.1f}"
        for (num_threads, name), durations in seconds.items():
            ratios = [a / b for a, b in zip(durations, seconds[num_threads, yardstick], strict=True)]
            median, slowest = 1e3 * statistics.median(durations), 1e3 * max(durations)
            ratio = statistics.median(ratios)
            _write(f"| {number} | {num_threads} | {name} | {median:.1f} | {slowest:.1f} | {ratio:.2f} | {loads} |")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _step(loss_of: LossOfStudent, student: torch.Tensor) -> None:
    torch.autograd.grad(loss_of(student), student)


@contextlib.contextmanager
def _busy_processes(number: int) -> Iterator[None]:
    """Keep processes of one thread each computing."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
