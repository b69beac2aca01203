"""Launcher of the kernel that makes loss and statistics of the sums."""

import torch
from torch import Tensor

from fpl_fast.kernels.device.finish import finish_kernel
from fpl_fast.kernels.operands import scale_arguments
from fpl_fast.kernels.repeat import RepeatedLaunches
from fpl_fast.kernels.statistics import MAX_BALANCE, NUM_STATISTICS, Finish, Finished

# A full-resolution pass over 8 x 512 x 512 pixels leaves 32768 sums of a term: one trip, four for four terms together.
BLOCK, LOADS = 1024, 32

_LAUNCHES = RepeatedLaunches(finish_kernel, num_warps=32)


def finish(partial_sums: Tensor, todo: Finish, num_pixels: int) -> Finished:
    """Add the sums in float64, in a fixed order, and finish them; without host synchronisation.

    Args:
        partial_sums: (terms, programs) contiguous float32, ``arguments.SUMS`` in parts, or any of which the first one
            is that of the loss.
        todo: what is to be made of them. Of other sums than ``SUMS`` that is the scaled loss alone.
        num_pixels: of the loss, valid or not.
    """
    loss = partial_sums.new_empty(())
    factor = partial_sums.new_empty(()) if todo.has_factor else None
    statistics = partial_sums.new_empty(NUM_STATISTICS) if todo.with_stats else None
    scale_ptr, scale = scale_arguments(todo.scale)
    arguments = {
        "partial_ptr": partial_sums,
        "loss_ptr": loss,
        "factor_ptr": factor,
        "statistics_ptr": statistics,
        "scale_ptr": scale_ptr,
        "scale": scale,
        "num_programs": partial_sums.shape[1],
        "num_pixels": num_pixels,
        "SCALE_IN_BACKWARD": todo.scale_in_backward,
        "WEIGHTED_MEAN": todo.weighted_mean,
        "BALANCE": todo.balance,
        "MAX_BALANCE": MAX_BALANCE,
        "BLOCK": BLOCK,
        "LOADS": LOADS,
    }
    # Tensors that this library has made: contiguous, aligned, and float32.
    key = (todo[1:], scale is None, scale_ptr is None, num_pixels, partial_sums.shape, partial_sums.device)
    with torch.cuda.device_of(partial_sums):
        _LAUNCHES(key, (1 + NUM_STATISTICS if todo.with_stats else 1, 1, 1), arguments)
    return Finished(loss, factor, statistics)
