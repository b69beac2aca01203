"""Steps a second and memory of every method of the trainer, beside CPS, on random images."""

import dataclasses
import gc
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from fpl_fast.bench.measure import peak_memory_mb
from fpl_fast.bench.results import RESULTS, describe_machine, results_path
from fpl_fast.bench.training.peers import held_mb
from fpl_fast.bench.training.timing import launches_and_busy, wall_seconds
from fpl_fast.trainer.build import make_fabric, without_pretraining
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.optim import build_optimizer
from fpl_fast.trainer.random_batches import prepared_method, random_batches
from fpl_fast.trainer.recipes import METHOD_SUMMARIES, make_recipe
from fpl_fast.trainer.step import set_up_phases, train_step

__all__ = ["Sizes", "measure_methods", "methods_report", "write_methods_benchmark"]

_REFERENCE = "cps"
_WARM_UP, _STEPS = 2, 4  # steps of a round: the host may run ahead of the device, as it does in training
_PROGRESS = 0.5  # of the run: a method may begin with steps that need less


class Sizes(NamedTuple):
    """Sizes that all methods get instead of their recipes' own; None leaves a recipe as it is."""

    crop: int | None = None
    """Height and width of a crop, pixels."""
    batch: int | None = None
    """Labelled images a step, and as many unlabelled ones."""
    backbone: str | None = None


def write_methods_benchmark(
    methods: Sequence[str],
    *,
    device: Literal["cpu", "cuda"],
    sizes: Sizes,
    rounds: int = 5,
    out: Path | str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Measure methods and write ``<device>-methods.json`` with its Markdown beside it, anew after each method.

    Args:
        methods: Methods of ``fpl-fast recipes``; CPS comes first, and last once more.
        device: "cuda", with the recipes of VOC in 16 bits, or "cpu", with those of the synthetic scenes.
        sizes: Sizes in place of the recipes' own.
        rounds: Rounds of four steps each.
        out: Folder, created if it does not exist; ``bench/results`` by default.
        say: Receives lines of progress.

    Returns:
        Path of the Markdown.

    Raises:
        ValueError: There is no such method, or rounds break their rule.
    """
    unknown = [name for name in methods if name not in METHOD_SUMMARIES]
    if unknown:
        raise ValueError(f"METHOD must be one of {', '.join(METHOD_SUMMARIES)}, got {unknown[0]!r}")
    if rounds < 2:
        raise ValueError(f"--rounds must be >= 2, got {rounds}")
    machine = describe_machine(device)
    results = results_path(RESULTS if out is None else Path(out), machine, "methods")
    report = results.with_suffix(".md")
    measured: dict[str, Any] = {
        "machine_info": machine,
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "setup": {"rounds": rounds, **sizes._asdict()},
        "methods": [],
    }
    for facts in measure_methods(methods, device=device, sizes=sizes, rounds=rounds, say=say):
        measured["methods"].append(facts)
        results.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        report.write_text(methods_report(measured), encoding="utf-8")
    say(f"written: {report}")
    return report


def measure_methods(
    methods: Sequence[str], *, device: Literal["cpu", "cuda"], sizes: Sizes, rounds: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Measure one method after the other; yields its facts, or why it could not be measured."""
    order = [_REFERENCE, *(name for name in methods if name != _REFERENCE), _REFERENCE]
    for place, name in enumerate(order, start=1):
        say(f"{place} of {len(order)}: {name}")
        try:
            yield {"method": name, **_measure(_config(name, device, sizes), torch.device(device), rounds)}
        except ValueError as error:
            yield {"method": name, "error": str(error)}
        gc.collect()  # a method and its graph may refer to each other
        with suppress(AssertionError):  # a build of PyTorch without CUDA
            torch.cuda.empty_cache()


def _config(method: str, device: Literal["cpu", "cuda"], sizes: Sizes) -> RunConfig:
    config = without_pretraining(make_recipe(f"{'voc' if device == 'cuda' else 'synthetic'}/{method}"))
    train = dataclasses.replace(config.train, accelerator=device, devices=1)
    augment, model = config.augment, config.model
    if sizes.crop is not None:
        augment = dataclasses.replace(augment, crop=(sizes.crop, sizes.crop))
    if sizes.batch is not None:
        train = dataclasses.replace(train, batch_labelled=sizes.batch, batch_unlabelled=sizes.batch)
    if sizes.backbone is not None:
        model = dataclasses.replace(model, backbone=sizes.backbone)
    return dataclasses.replace(config, train=train, augment=augment, model=model)


def _measure(config: RunConfig, device: torch.device, rounds: int) -> dict[str, Any]:
    fabric = make_fabric(config.train)
    fabric.seed_everything(0, verbose=False)
    method = prepared_method(config, 1).train()
    fabric.to_device(method)
    optimizer = build_optimizer(method, config.optim, fabric.device)
    module, optimizer = fabric.setup(method, optimizer)
    phases = set_up_phases(fabric, method)
    (batch,) = random_batches(config, method, fabric, 1)
    count = iter(range(10**9))

    def step() -> None:
        train_step(fabric, module, optimizer, batch, _PROGRESS, phases=phases)
        method.after_step(next(count))

    def several() -> None:
        for _ in range(_STEPS):
            step()

    first_s = wall_seconds(step, device)
    for _ in range(_WARM_UP):
        step()
    times = [wall_seconds(several, device) / _STEPS for _ in range(rounds)]
    optimizers = [optimizer, *(phase.optimizer for phase in phases)]
    for each in optimizers:
        each.zero_grad()
    modules = [method, *(phase.module for phase in phases)]
    views = [batch.labelled, *batch.unlabelled]
    return {
        "backbone": config.model.backbone,
        "crop": config.augment.crop,
        "images": sum(len(view.image) for view in views),
        "precision": config.train.precision,
        "first_step_s": first_s,
        "step_s": statistics.median(times),
        "range_s": max(times) - min(times),
        "peak_memory_mb": held_mb(modules, optimizers) + peak_memory_mb(step, device),
        **launches_and_busy(step, device),
    }


def methods_report(measured: dict[str, Any]) -> str:
    """Render the results of ``write_methods_benchmark``; ratios refer to the mean of both measurements of CPS."""
    machine, found = measured["machine_info"], [facts for facts in measured["methods"] if "error" not in facts]
    described = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in ("device", "kind"))
    reference = [facts for facts in found if facts["method"] == _REFERENCE]
    beside = {
        key: statistics.fmean(facts[key] for facts in reference) if reference else None
        for key in ("step_s", "peak_memory_mb")
    }
    rows = chain.from_iterable(_rows(facts, beside) for facts in measured["methods"])
    return "\n".join(
        [
            f"# Methods on {machine['device']}",
            "",
            f"{measured['datetime'][:10]}, {described}.",
            "",
            "A step of every method, random images that lie on the device already, networks not compiled. Medians of "
            f"{measured['setup']['rounds']} rounds of {_STEPS} steps, *range* from the fastest to the slowest; CPS, "
            "which the ratios refer to, is measured first and last. *images* counts every view. *busy* is the time of "
            "all kernels of a step. *peak memory* counts weights, optimisers and one step.",
            "",
            "| | backbone | crop | images a step | steps/s | range | of CPS's time | peak memory, MB | of CPS's "
            "| busy, ms | launches |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )


def _rows(facts: dict[str, Any], beside: dict[str, float | None]) -> Iterator[str]:
    if "error" in facts:
        yield f"| {facts['method']} | not measured: {facts['error']} |" + " |" * 9
        return
    ratios = {key: f"{facts[key] / value:.2f}" if value else "–" for key, value in beside.items()}
    counted = facts["launches"] is not None
    cells = [
        facts["method"],
        facts["backbone"],
        "×".join(str(side) for side in facts["crop"]),
        str(facts["images"]),
        f"{1 / facts['step_s']:.3g}",
        f"{100 * facts['range_s'] / facts['step_s']:.0f} %",
        ratios["step_s"],
        f"{facts['peak_memory_mb']:,.0f}",
        ratios["peak_memory_mb"],
        f"{1e3 * facts['busy_s']:.1f}" if counted else "–",
        f"{facts['launches']:,}" if counted else "–",
    ]
    yield f"| {' | '.join(cells)} |"
