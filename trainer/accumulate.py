"""The loss and gradient of one step, computed in micro-batches on one or many processes.

They equal loss and gradient of the whole batch at once wherever a term is a mean over images, or over pixels that can
be counted beforehand: every micro-batch of every process is weighted by its number of pixels. Some quantities span all
processes but only one micro-batch at a time: the scalings of a loss that need the networks' outputs (the balance of the
fuzzy positive loss, AEL's normalised confidence weights, the share of sure pixels of CutMix-Seg), batch normalisation
(on GPUs, by SyncBatchNorm), and the random draws of AEL, CCT and of the channels of UniMatch, UniMatch V2 and
CorrMatch, whose regions are drawn and whose threshold moves in each micro-batch, too. Dropout is drawn in each process.
"""

from functools import reduce

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor

from fpl_fast.trainer.methods import Batch, Method, Phase
from fpl_fast.trainer.processes import mean_over_processes

__all__ = ["backward", "backward_phase"]


def backward(
    fabric: Fabric, module: _FabricModule, batch: Batch, progress: float, *, num_micro_batches: int = 1
) -> dict[str, Tensor]:
    """Add the gradient of a batch to the gradient of the parameters.

    loss = sum over terms of (sum over all micro-batches of n_i * term_i) / (sum of n_i), with n_i the method's
    ``denominators`` of the term, 1 where it names none.

    Args:
        fabric: The processes; each calls this with its own batch.
        module: The method, as ``fabric.setup`` returned it.
        batch: This process's share of the step; its images are a multiple of ``num_micro_batches``.
        progress: Share of the run done, in [0, 1).
        num_micro_batches: Parts that follow each other through the networks.

    Returns:
        ``loss``, its terms and the telemetry: 0-d, detached, means over this process's micro-batches. Averaged over the
        processes, they are the values of the step (telemetry: plain means).
    """
    micro_batches = batch.split(num_micro_batches)
    sums: dict[str, Tensor] = {}
    method = module.module
    assert isinstance(method, Method)
    for micro_batch, weights in zip(micro_batches, _weights(fabric, method, micro_batches), strict=True):
        # The processes exchange gradients once, with the last part.
        with fabric.no_backward_sync(module, enabled=micro_batch is not micro_batches[-1]):
            losses = module(micro_batch, progress)
            terms = {name: term * weights[name] if name in weights else term for name, term in losses.terms.items()}
            loss = reduce(torch.add, terms.values())
            fabric.backward(loss / num_micro_batches)
        _add(sums, {"loss": loss, **terms, **losses.telemetry})
    return {name: value / num_micro_batches for name, value in sums.items()}


def backward_phase(
    fabric: Fabric, phase: Phase, batch: Batch, progress: float, *, num_micro_batches: int = 1
) -> dict[str, Tensor]:
    """Give the parameters of a later phase the gradient of a batch, averaged over its micro-batches and all processes.

    Args:
        fabric: As for ``backward``.
        phase: Phase of the step; its parameters have no gradient yet.
        batch: As for ``backward``.
        progress: As for ``backward``.
        num_micro_batches: As for ``backward``.

    Returns:
        ``loss``, its terms and the telemetry, as ``backward`` returns them.
    """
    sums: dict[str, Tensor] = {}
    phase.module.requires_grad_(True)
    for micro_batch in batch.split(num_micro_batches):
        with fabric.autocast():
            losses = phase.losses(micro_batch, progress)
        loss = reduce(torch.add, losses.terms.values())
        fabric.backward(loss / num_micro_batches)
        _add(sums, {"loss": loss, **losses.terms, **losses.telemetry})
    phase.module.requires_grad_(False)
    for parameter in phase.module.parameters():
        assert parameter.grad is not None
        mean_over_processes(parameter.grad)
    return {name: value / num_micro_batches for name, value in sums.items()}


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value.detach()


def _weights(fabric: Fabric, method: Method, micro_batches: list[Batch]) -> list[dict[str, Tensor]]:
    """Weights of each micro-batch in the mean over all of them, by term: n_i over the mean n of the step."""
    if len(micro_batches) * fabric.world_size == 1:
        return [{}]
    denominators = [method.denominators(micro_batch) for micro_batch in micro_batches]
    names = list(denominators[0])
    if not names:
        return [{}] * len(micro_batches)
    counts = torch.stack([torch.stack([n[name] for name in names]) for n in denominators]).float()
    mean = mean_over_processes(counts.mean(dim=0))
    return [dict(zip(names, row, strict=True)) for row in counts / mean.clamp(min=1e-9)]  # 0 / 0: no pixel anywhere
