"""Timing of training steps: the peers take turns, round after round, so that ratios are fair."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fpl_fast.bench.measure import DeviceClock, hold_device, peak_memory_mb, synchronize
from fpl_fast.bench.results import RESULTS, describe_machine, results_path
from fpl_fast.bench.trace import trace_launches
from fpl_fast.bench.training.cards import matrix_tflops
from fpl_fast.bench.training.loss_replay import LossReplay
from fpl_fast.bench.training.peers import NAMES, Peer, Setup, make_peers
from fpl_fast.bench.training.report import training_report

__all__ = ["launches_and_busy", "measure_training", "wall_seconds", "write_training_benchmark"]

_MIN_ROUNDS, _MAX_ROUNDS = 3, 30
_LOSS_REPEATS = 5
_HOLD_S = 0.04  # longer than the host takes to launch the repeats


def write_training_benchmark(
    setup: Setup, *, seconds: float, out: Path | str | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Measure training steps and write ``<device>-train.json`` with its Markdown beside it.

    Where networks are compiled, which takes minutes, the steps are measured without that first and written to
    ``<device>-uncompiled-train.json``. Files are written after three rounds, and again after the last one: a run that
    is cut off leaves these numbers.

    Args:
        setup: Setup of the training.
        seconds: Time for the rounds, after everything is compiled and warm.
        out: Folder, created if it does not exist; ``bench/results`` by default.
        say: Receives lines of progress.

    Returns:
        Path of the Markdown.

    Raises:
        ValueError: Setup or seconds break a rule; there is no such backbone or device.
    """
    if not seconds > 0:
        raise ValueError(f"--seconds must be > 0, got {seconds:g}")
    for measured in measure_training(setup, seconds=seconds, say=say):
        uncompiled = setup.compiles and measured["setup"]["compile_s"] is None
        what = "uncompiled-train" if uncompiled else "train"
        results = results_path(RESULTS if out is None else Path(out), measured["machine_info"], what)
        report = results.with_suffix(".md")
        results.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        report.write_text(training_report(measured), encoding="utf-8")
        say(f"written: {report}")
    return report


def measure_training(
    setup: Setup, *, seconds: float, say: Callable[[str], None] = lambda line: None
) -> Iterator[dict[str, Any]]:
    """Measure every peer; yields the content of the JSON file (see ``training_report``).

    Yields it after three rounds and after the last one; where networks are compiled, before and after that.
    """
    device = torch.device(setup.device)
    peers: dict[str, Peer] = {}
    found: dict[str, dict[str, Any]] = {}
    flops = 0
    with _uncompiled(setup.compiles):
        for name, peer in make_peers(setup):
            say(f"first steps: {NAMES[name]}")
            peers[name] = peer
            found[name] = _first_steps(peer, device)
            if name == "plain":  # all peers have the same networks, and here no compiled graph hides operations
                with FlopCounterMode(display=False) as counter:
                    peer.step()
                flops = counter.get_total_flops()
        yield from _measure(setup, peers, found, seconds=seconds, flops=flops, compile_s=None, say=say)
    if not setup.compiles:
        return
    for name, peer in peers.items():
        say(f"first steps, compiling networks, which takes minutes where it is the first time: {NAMES[name]}")
        found[name] = _first_steps(peer, device)
        say(f"  {found[name]['first_step_s']:.1f} s")
    compile_s = sum(facts["first_step_s"] - facts["warm_step_s"] for facts in found.values())
    yield from _measure(setup, peers, found, seconds=seconds, flops=flops, compile_s=compile_s, say=say)


def _uncompiled(wanted: bool) -> AbstractContextManager[object]:
    """Context in which compiled networks run as they were written."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()


def _measure(
    setup: Setup,
    peers: dict[str, Peer],
    first: Mapping[str, Mapping[str, Any]],
    *,
    seconds: float,
    flops: int,
    compile_s: float | None,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure rounds of all peers, after their first steps."""
    device = torch.device(setup.device)
    round_s = sum(facts["warm_step_s"] for facts in first.values())
    rounds = int(min(max(seconds / round_s, _MIN_ROUNDS), _MAX_ROUNDS))
    say(f"{rounds} rounds of every peer")
    found = {name: dict(facts) | launches_and_busy(peers[name].step, device) for name, facts in first.items()}
    machine = describe_machine(setup.device)
    for done, (steps, losses) in enumerate(_rounds(peers, device, rounds), 1):
        if done not in (_MIN_ROUNDS, rounds):
            continue
        for name, facts in found.items():
            facts["step_s"] = statistics.median(steps[name])
            facts["step_iqr_s"] = _iqr(steps[name])
            facts["images_per_second"] = setup.images_per_step / facts["step_s"]
            facts["loss_s"] = statistics.median(losses[name])
            facts["loss_share"] = facts["loss_s"] / facts["step_s"]
            facts["tflops"] = flops / facts["step_s"] / 1e12
            on_card = setup.device == "cuda"
            facts["card_tflops"] = (
                matrix_tflops(machine["device"], half="16" in facts["precision"]) if on_card else None
            )
        yield {
            "machine_info": machine,
            "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "setup": {
                **asdict(setup),
                "rounds": done,
                "tflop_per_step": flops / 1e12,
                "compiles": setup.compiles,
                "compile_s": compile_s,
            },
            "peers": found,
            # The median over the rounds of the ratio within a round.
            "step_ratios": {
                other: statistics.median(ours / theirs for ours, theirs in zip(steps["fpl"], steps[other], strict=True))
                for other in steps
                if other != "fpl"
            },
        }


def _first_steps(peer: Peer, device: torch.device) -> dict[str, Any]:
    first_step_s = wall_seconds(peer.step, device)
    wall_seconds(peer.step, device)
    warm_step_s = wall_seconds(peer.step, device)
    peer.optimizer.zero_grad()  # gradients belong to the step that makes them
    return {
        "precision": peer.fabric.strategy.precision.precision,
        "first_step_s": first_step_s,
        "warm_step_s": warm_step_s,
        "peak_memory_mb": peer.static_mb + peak_memory_mb(peer.step, device),
    }


def _rounds(
    peers: dict[str, Peer], device: torch.device, rounds: int
) -> Iterator[tuple[dict[str, list[float]], dict[str, list[float]]]]:
    """Measure the seconds of a step and of its losses alone, by peer and round; yields both after every round."""
    with _uncompiled(True):  # to record logits; without gradient, a network would be compiled once more
        replays = {name: LossReplay(peer) for name, peer in peers.items()}
    for replay in replays.values():
        replay.step()  # compiles parts that the step has not compiled
    steps: dict[str, list[float]] = {name: [] for name in peers}
    losses: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, peer in peers.items():
            steps[name].append(wall_seconds(peer.step, device))
            losses[name].append(_device_seconds(replays[name].step, device))
        yield steps, losses


def launches_and_busy(step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """Count the launches of a step, and sum the time that they keep a GPU busy: the rest of a step it waits."""
    if device.type == "cpu":
        return {"launches": None, "busy_s": None}
    launches = trace_launches(step, device)
    return {"launches": sum(x.number for x in launches), "busy_s": 1e-6 * sum(x.total_us for x in launches)}


def wall_seconds(function: Callable[[], None], device: torch.device) -> float:
    """Measure the seconds of a call until the device is done, as in training."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def _device_seconds(function: Callable[[], None], device: torch.device) -> float:
    """Measure the device's seconds of a call: within a step, the host queues the losses up behind the networks."""
    clock = DeviceClock() if device.type == "cuda" else time.perf_counter
    synchronize(device)
    hold_device(device, _HOLD_S)
    start = clock()
    for _ in range(_LOSS_REPEATS):
        function()
    return (clock() - start) / _LOSS_REPEATS


def _iqr(values: list[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4)
    return high - low
