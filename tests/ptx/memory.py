"""The global memory of a launch: storages of the arguments, with a watch on every byte."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ptx.program import Fault, Instruction

Array = np.ndarray[Any, Any]

_APART = 40  # storages lie 2^40 bytes apart
HUGE_BYTES = 1 << 28  # of a storage that is mapped but mostly untouched: it gets no flag for each byte


class Storage:
    """Memory of one storage, and the bytes that may be read and written.

    Args:
        number: From 1 on.
        array: The bytes.
        name: Of the argument.
    """

    def __init__(self, number: int, array: Array, name: str) -> None:
        self.array, self.name, self.base = array, name, number << _APART
        if len(array) > HUGE_BYTES:
            self.readable, self.writable, self.writer = _Elements(), _Elements(), _Nobody()
        else:
            self.readable, self.writable = np.zeros(len(array), bool), np.zeros(len(array), bool)
            self.writer = np.full(len(array), -1, np.int64)  # thread of the launch that wrote the byte

    def elements(self, tensor: torch.Tensor) -> Any:
        """Flags of the bytes that are elements of a tensor in it."""
        size, num_bytes = tensor.element_size(), len(self.array)
        if num_bytes > HUGE_BYTES:
            return _View(tensor)
        flags = torch.zeros((num_bytes + size - 1) // size, dtype=torch.bool)
        if tensor.numel():
            flags.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        return flags.repeat_interleave(size).numpy()[:num_bytes]


class _View:
    """The elements of a tensor by arithmetic."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._size = tensor.element_size()
        self._first = tensor.storage_offset() * self._size
        strides = zip(tensor.stride(), tensor.shape, strict=True)
        self._axes = sorted(((s * self._size, n) for s, n in strides if n > 1 and s), reverse=True)

    def contains(self, index: Array) -> Array:
        """Whether the bytes are of elements."""
        rest = index - self._first
        for stride, n in self._axes:
            rest = rest - np.clip(rest // stride, 0, n - 1) * stride
        return (rest >= 0) & (rest < self._size)


class _Elements:
    """Like an array of flags: the elements of any of several tensors."""

    def __init__(self) -> None:
        self._views: list[_View] = []

    def __ior__(self, view: _View) -> "_Elements":
        self._views.append(view)
        return self

    def __getitem__(self, index: Array) -> Array:
        found = np.zeros(np.shape(index), bool)
        for view in self._views:
            found |= view.contains(index)
        return found


class _Nobody:
    """Writers of memory that is only read."""

    def __getitem__(self, index: Array) -> Array:
        return np.full(np.shape(index), -1, np.int64)


class Memory:
    """All storages of a launch; ``accesses`` counts those of the threads."""

    def __init__(self) -> None:
        self.storages: list[Storage] = []
        self.accesses = 0

    def add(self, array: Array, name: str) -> Storage:
        """Map the bytes of a storage."""
        self.storages.append(Storage(len(self.storages) + 1, array, name))
        return self.storages[-1]

    def load(self, threads: Array, addresses: Array, size: int, by: Instruction) -> Array:
        """``size`` bytes of each address, (threads, size).

        Raises:
            Fault: If an access may not be.
        """
        out = np.empty((len(threads), size), np.uint8)
        for storage, chosen, index in self._find(addresses, size, by):
            allowed = storage.readable[index].all(1)
            if not allowed.all():
                raise Fault(f"{by}: reads {storage.name} at byte {index[~allowed][0, 0]}, which is no element of it")
            writer = storage.writer[index]
            if ((writer >= 0) & (writer != threads[chosen, None])).any():
                raise Fault(f"{by}: reads {storage.name} where another thread of the launch has written")
            out[chosen] = storage.array[index]
        return out

    def store(self, threads: Array, addresses: Array, rows: Array, by: Instruction) -> None:
        """Write a row of bytes to each address.

        Raises:
            Fault: If an access may not be.
        """
        for storage, chosen, index in self._find(addresses, rows.shape[1], by):
            allowed = storage.writable[index].all(1)
            if not allowed.all():
                raise Fault(f"{by}: writes {storage.name} at byte {index[~allowed][0, 0]}, which it may not")
            new = rows[chosen]
            if ((storage.writer[index] >= 0) & (storage.array[index] != new)).any():
                raise Fault(f"{by}: writes {storage.name} again with another value")
            storage.array[index] = new
            if (storage.array[index] != new).any():
                raise Fault(f"{by}: two threads write different values to one address of {storage.name}")
            storage.writer[index] = threads[chosen, None]

    def add_to(self, threads: Array, addresses: Array, values: Array, by: Instruction) -> Array:
        """Add numbers of eight bytes to memory, one after the other; returns what each has found there.

        Raises:
            Fault: If an access may not be.
        """
        found = np.empty(len(threads), np.uint64)
        for i in range(len(threads)):
            ((storage, _, index),) = self._find(addresses[i : i + 1], 8, by)
            if not (storage.readable[index] & storage.writable[index]).all():
                raise Fault(f"{by}: adds to {storage.name} at byte {index[0, 0]}, which it may not")
            if ((storage.writer[index] >= 0) & (storage.writer[index] != threads[i])).any():
                raise Fault(f"{by}: adds to {storage.name} where another thread of the launch has stored")
            found[i] = storage.array[index[0]].view(np.uint64)[0]
            storage.array[index[0]] = np.array([found[i] + values[i]]).view(np.uint8)
        return found

    def _find(self, addresses: Array, size: int, by: Instruction) -> Iterator[tuple[Storage, Array, Array]]:
        """The storages, which of the addresses lie in each, and the bytes there."""
        self.accesses += len(addresses)
        addresses = addresses.astype(np.int64)
        if (addresses % size).any():
            raise Fault(f"{by}: address {addresses[addresses % size != 0][0]:#x} is not aligned to {size} bytes")
        numbers = addresses >> _APART
        for number in np.unique(numbers):
            if not 1 <= number <= len(self.storages):
                raise Fault(f"{by}: address {number << _APART:#x} is outside of all memory")
            storage = self.storages[number - 1]
            chosen = np.flatnonzero(numbers == number)
            offset = addresses[chosen] - storage.base
            if (offset + size > len(storage.array)).any():
                raise Fault(f"{by}: {storage.name} at byte {offset.max()} of {len(storage.array)}")
            yield storage, chosen, offset[:, None] + np.arange(size)
