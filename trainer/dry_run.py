"""Prediction of whether a run fits and how long it will take, from two of its steps on random images.

Shapes and batches are the run's own; nothing is read and nothing is written. Time and memory of the steps are measured
on this machine. Memory is also predicted beforehand, so that a run that cannot fit is not tried.
"""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from fpl_fast.trainer.build import count_devices, make_fabric, without_pretraining
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.methods import Batch, Method
from fpl_fast.trainer.optim import NUM_MOMENTS, build_optimizer
from fpl_fast.trainer.random_batches import prepared_method, random_batches
from fpl_fast.trainer.run.clock import available_memory_bytes, peak_memory_mb, reset_peak_memory
from fpl_fast.trainer.step import set_up_phases, train_step

__all__ = [
    "DryRun",
    "Prediction",
    "PreparedRun",
    "dry_run",
    "predict_memory",
    "prepare_run",
    "require_fit",
    "take_steps",
]

_STEPS = 2
_PROGRESS = 0.5  # of the run: a method may begin with steps that need less
_PROBE_CROPS = (64, 128)
_PROBE_LABELLED = (2, 4)


class Prediction(NamedTuple):
    """Memory on one device, bytes; an estimate without workspaces, fragmentation and the libraries themselves."""

    state: int  # weights, teachers, gradients, state of the optimisers
    activations: int  # tensors that the forward passes keep for the backward pass

    @property
    def total(self) -> int:
        """State and activations together."""
        return self.state + self.activations


class PreparedRun(NamedTuple):
    """A run that is ready to begin."""

    fabric: Fabric
    method: Method  # on the device, in train mode
    predicted: Prediction
    available: int | None  # bytes free on the device before the networks; None where the system does not report it

    @property
    def device(self) -> str:
        """Name of the device."""
        device = self.fabric.device
        return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)

    @property
    def fits(self) -> bool:
        """Whether the predicted memory is free, as far as that is known."""
        return self.available is None or self.predicted.total <= self.available


class DryRun(NamedTuple):
    """Result of a dry run."""

    device: str
    num_unlabelled_views: int
    parameters: int  # of one network
    trained: int  # parameters that optimisers move, of all networks
    checkpoint_bytes: int  # weights, buffers and state of the optimisers
    predicted: Prediction
    first_step_s: float  # with compilation and allocation
    step_s: float
    peak_memory_mb: float
    is_first: bool  # whether this process is the one that reports


def dry_run(config: RunConfig) -> DryRun:
    """Predict memory, then take two steps of a run on random images.

    Args:
        config: The run; its data need not exist, and its initial weights are not read.

    Raises:
        ValueError: The configuration breaks a rule, or the run does not fit into the memory of this machine.
    """
    prepared = prepare_run(config)
    require_fit(prepared)
    fabric, method = prepared.fabric, prepared.method
    reset_peak_memory(fabric.device)
    durations = list(take_steps(config, prepared, random_batches(config, method, fabric, _STEPS)))
    return DryRun(
        device=prepared.device,
        num_unlabelled_views=method.num_unlabelled_views,
        parameters=sum(p.numel() for p in method.eval_network.parameters()),
        trained=sum(p.numel() for part in _trained(method) for p in part),
        checkpoint_bytes=_state_bytes(config, method),
        predicted=prepared.predicted,
        first_step_s=durations[0],
        step_s=durations[-1],
        peak_memory_mb=peak_memory_mb(fabric.device),
        is_first=fabric.is_global_zero,
    )


def take_steps(config: RunConfig, prepared: PreparedRun, batches: Iterable[Batch]) -> Iterator[float]:
    """Take a step of a prepared run on each batch; yields the seconds that it took, the device's work included."""
    fabric, method = prepared.fabric, prepared.method
    module, optimizer = fabric.setup(method, build_optimizer(method, config.optim, fabric.device))
    phases = set_up_phases(fabric, method)
    for step, batch in enumerate(batches):
        begin = time.perf_counter()
        losses = train_step(
            fabric,
            module,
            optimizer,
            batch,
            _PROGRESS,
            num_micro_batches=config.train.accumulate,
            phases=phases,
        )
        method.after_step(step)
        float(losses["loss"])  # waits for the device
        yield time.perf_counter() - begin


def prepare_run(config: RunConfig, *, alone: bool = False) -> PreparedRun:
    """Set up device and networks and predict memory; the data and the initial weights need not exist.

    Args:
        config: The run.
        alone: Whether one device is prepared in place of all devices of the run; the prediction is nearly the same.

    Raises:
        ValueError: The configuration breaks a rule.
    """
    config = without_pretraining(config)
    fabric = make_fabric(config.train, alone=alone)
    available = _available_memory(fabric.device)
    fabric.seed_everything(config.train.seed, verbose=False)
    method = prepared_method(config, _STEPS).train()
    fabric.to_device(method)
    return PreparedRun(fabric, method, predict_memory(config, method, fabric), available)


def predict_memory(config: RunConfig, method: Method, fabric: Fabric) -> Prediction:
    """Predict the memory that a step will need on each device.

    The state is counted. The tensors that autograd keeps are measured on small batches and extrapolated: their size in
    a convolutional network is a + pixels * (b * labelled images + c * unlabelled images), with casts of weights and
    statistics in a.

    Args:
        config: The run.
        method: The method with its networks, on the device, in train mode; their running statistics change.
        fabric: Keeper of processes, device and precision.
    """
    train, (few, many) = config.train, _PROBE_LABELLED
    multiple = method.size_multiple
    small, large = (-(-crop // multiple) * multiple for crop in _PROBE_CROPS)
    unlabelled = min(few, train.batch_unlabelled // fabric.world_size)

    def saved(crop: int, labelled: int) -> int:
        probe = dataclasses.replace(
            config,
            augment=dataclasses.replace(config.augment, crop=(crop, crop)),
            train=dataclasses.replace(train, batch_labelled=labelled * fabric.world_size),
        )
        batch = next(random_batches(probe, method, fabric, _STEPS))
        views, mask, boxes = apply_to_collection(
            (batch.unlabelled, batch.mix_mask, batch.strong_masks),
            Tensor,
            lambda t: t[:unlabelled].clone(),  # a part would keep the storage of all images
        )
        return _saved_bytes(method, batch._replace(unlabelled=views, mix_mask=mask, strong_masks=boxes), fabric)

    base, wide, more = saved(small, few), saved(large, few), saved(large, many)
    of_labelled = (more - wide) / (large**2 * (many - few))
    of_both = (wide - base) / (large**2 - small**2)
    of_unlabelled = (of_both - few * of_labelled) / unlabelled
    images = of_labelled * train.batch_labelled + of_unlabelled * train.batch_unlabelled
    num_devices = math.prod(count_devices(train))  # of the run, of which fabric may be one alone
    share = images / (num_devices * train.accumulate)
    activations = base - of_both * small**2 + share * math.prod(config.augment.crop)

    gradients = sum(p.nbytes for part in _trained(method) for p in part)
    return Prediction(_state_bytes(config, method) + gradients, round(activations))


def _trained(method: Method) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that the networks' optimiser moves, and those that optimisers of later phases move."""
    later = [p for phase in method.later_phases() for p in phase.module.parameters()]
    return [p for p in method.parameters() if p.requires_grad], later


def _state_bytes(config: RunConfig, method: Method) -> int:
    """Bytes of weights, buffers, and the averages of gradients that optimisers keep: two in later phases."""
    networks, later = (sum(p.nbytes for p in part) for part in _trained(method))
    averages = NUM_MOMENTS[config.optim.algorithm] * networks + 2 * later
    return sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers())) + averages


def _saved_bytes(method: Method, batch: Batch, fabric: Fabric) -> int:
    """Bytes that autograd keeps for the losses of a batch, without parameters.

    Neither networks nor losses are compiled for it: every engine keeps the same.
    """
    parameters = {p.untyped_storage().data_ptr() for p in method.parameters()}
    storages: dict[int, int] = {}  # each storage is counted once

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that keeps its own output, with its graph, would never be freed

    config, method.config = method.config, dataclasses.replace(method.config, engine="eager")
    with (
        torch.compiler.set_stance("force_eager"),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        fabric.autocast(),
    ):
        losses = method.losses(batch, _PROGRESS)  # held until all is counted: a freed storage could be counted twice
    method.config = config
    del losses
    return sum(storages.values())


def _available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not report it."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()


def require_fit(prepared: PreparedRun) -> None:
    """Check that the predicted memory is free.

    Raises:
        ValueError: It is not.
    """
    if not prepared.fits:
        assert prepared.available is not None
        need, free = (f"{size / 1e9:.1f} GB" for size in (prepared.predicted.total, prepared.available))
        raise ValueError(f"augment.crop and train.batch_* must be such that a step fits into {free}, got about {need}")
