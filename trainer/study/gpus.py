"""The GPUs of this machine, shared out among runs."""

import os
from collections import Counter
from collections.abc import Sequence

import torch

__all__ = ["GpuPool", "visible_gpus"]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` takes."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if given is None else (name.strip() for name in given.split(","))
    return tuple(names)[:count]  # the driver, too, stops reading at a name that it does not know


class GpuPool:
    """Hands the GPUs with the fewest runs to the next run: one alone has as many as there are, more share them.

    Args:
        gpus: Their names.

    Example:
        >>> pool = GpuPool(["0", "1"])
        >>> pool.take(1), pool.take(1), pool.take(1)
        (('0',), ('1',), ('0',))
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._runs = Counter(dict.fromkeys(gpus, 0))

    def take(self, number: int) -> tuple[str, ...]:
        """Choose different GPUs for a run; the earlier one where two have as many runs."""
        assert number <= len(self._runs)
        chosen = tuple(sorted(self._runs, key=self._runs.__getitem__)[:number])
        self._runs.update(chosen)
        return chosen

    def give_back(self, gpus: Sequence[str]) -> None:
        """Count a run on these GPUs as ended."""
        self._runs.subtract(gpus)
