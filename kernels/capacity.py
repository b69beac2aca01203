"""Capacity of a device, on which launch configurations depend."""

import functools
from typing import NamedTuple

import torch

__all__ = ["Capacity", "capacity"]


class Capacity(NamedTuple):
    """Multiprocessors of a device, and threads of a warp."""

    multiprocessors: int
    lanes: int


@functools.cache
def capacity(device: torch.device) -> Capacity:
    """Look up the capacity of a device; a CPU, with the interpreter, counts as one multiprocessor of 32 lanes."""
    if device.type != "cuda":
        return Capacity(multiprocessors=1, lanes=32)
    properties = torch.cuda.get_device_properties(device)
    return Capacity(properties.multi_processor_count, properties.warp_size)
