"""Tables on a device that are made once and kept: for every stream, and for CUDA graphs."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Table = TypeVar("Table")


class _Entry(NamedTuple):
    table: Any
    stream: torch.cuda.Stream | None = None  # that it was made on
    made: torch.cuda.Event | None = None


class Kept(Generic[Table]):
    """A function that makes tables, with what it has made.

    Made by operations of the device alone, a table may be needed for the first time while a CUDA graph is captured. It
    is then a part of the graph, in its memory, and is not kept. What is kept has been made on one stream: others wait
    for it, on the device. A capture need not, as ``torch.cuda.graph`` begins with a device that is idle.

    Args:
        make: returns a tensor, or a tuple that has tensors; one of its positional arguments is their device.
        most: tables to keep; the oldest makes room for a new one.
    """

    def __init__(self, make: Callable[..., Table], most: int) -> None:
        functools.update_wrapper(self, make)
        self._make, self._most = make, most
        self._entries: dict[Hashable, _Entry] = {}
        self._captured: dict[Hashable, _Entry] = {}  # graphs hold their addresses

    def __call__(self, *arguments: Any) -> Table:
        """Return the table of these arguments, hashable ones."""
        device = next(x for x in arguments if isinstance(x, torch.device))
        entry = self._entries.get(arguments)
        if device.type != "cuda":
            return self._keep(arguments, _Entry(self._make(*arguments))) if entry is None else entry.table
        with torch.cuda.device(device):
            stream, capturing = torch.cuda.current_stream(), torch.cuda.is_current_stream_capturing()
            if entry is None:
                table = self._make(*arguments)
                return table if capturing else self._keep(arguments, _Entry(table, stream, stream.record_event()))
        if capturing:
            self._captured[arguments] = entry
        elif entry.made is not None and stream != entry.stream:
            stream.wait_event(entry.made)
            for x in entry.table if isinstance(entry.table, tuple) else (entry.table,):
                if isinstance(x, Tensor):
                    x.record_stream(stream)
        return entry.table

    def forget(self) -> None:
        """Make every table anew at its next use."""
        self._entries.clear()

    def _keep(self, arguments: Hashable, entry: _Entry) -> Any:
        if len(self._entries) >= self._most:
            self._entries.pop(next(iter(self._entries)), None)
        self._entries[arguments] = entry
        return entry.table


def kept(most: int) -> Callable[[Callable[..., Table]], Kept[Table]]:
    """Decorate a function that makes tables: see :class:`Kept`."""
    return lambda make: Kept(make, most)
