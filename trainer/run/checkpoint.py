"""Checkpoints: written whole or not at all, read as they were written, without running code from them."""

import hashlib
import os
import random
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["load_checkpoint", "load_random_state", "random_state", "save_checkpoint", "why_unreadable"]

_FORMAT = "fpl-fast checkpoint"
_VERSION = 2
_MARK = b"fpl-fast SHA-256"  # precedes the digest of all before it, at the end of the file; torch.load ignores both
_OTHER = {"last.ckpt": "best.ckpt", "best.ckpt": "last.ckpt"}
_TAIL = len(_MARK) + hashlib.sha256().digest_size


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all (``replacing``), with a checksum behind it.

    Args:
        path: File to write; its folder exists, and no other process writes it.
        state: Nested containers of tensors, numbers and strings.

    Raises:
        OSError: The file could not be written; the previous one is untouched.
    """
    handled = sys.exception()
    try:
        with replacing(path) as file:
            writer = _Digesting(file)
            try:
                torch.save({"format": _FORMAT, "version": _VERSION, **state}, cast("BinaryIO", writer))
            except RuntimeError as error:
                # Torch hides what ended a write, a full disk, Ctrl-C or a dead loader, behind an error of its own: that
                # the file is not complete.
                hidden = error.__context__ if "unexpected pos" in str(error) else None
                raise (error if hidden in (None, handled) else hidden) from None
            file.write(_MARK + writer.digest.digest())
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: could not be written ({reason}): make room, then go on from the previous one") from None


class _Digesting:
    """File to write to that keeps a digest of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Version 1 had no checksum and is read as it is.

    Raises:
        ValueError: The file is missing, truncated, changed since it was written, not a checkpoint of this project or
            of another version of it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: must be a checkpoint, got no such file")
    try:
        with path.open("rb") as file:
            whole = _is_whole(file)
    except OSError as error:
        raise ValueError(f"{path}: must be a readable checkpoint, got {error.strerror}") from None
    state: Any = None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in too many ways to list
        if whole:
            raise ValueError(f"{path}: must be a checkpoint, got a file that {why_unreadable(error)}") from None
    ours = isinstance(state, dict) and state.get("format") == _FORMAT
    if ours and state.get("version") == 1 and not whole:
        return {"pending": False} | state
    if not whole:
        raise ValueError(
            f"{path}: must be a whole checkpoint file (version {_VERSION}), got one cut short, changed since, "
            f"or foreign{_remedy(path)}"
        )
    if not ours:
        raise ValueError(f"{path}: must be a checkpoint of fpl-fast, got a foreign file")
    if state["version"] != _VERSION:
        raise ValueError(f"{path}: must have checkpoint version {_VERSION}, got {state['version']!r}")
    return state


def why_unreadable(error: Exception) -> str:
    """Describe in a few words why torch could not read a file, without its advice to read it unsafely."""
    text = str(error)
    if "weights_only" in text:
        found = re.search(r"GLOBAL ([\w.]+)", text)
        return f"holds more than tensors and could run code ({found.group(1)})" if found else "is none of tensors"
    first = " ".join(text.split("\n")[0].split()) or type(error).__name__
    return f"cannot be read ({first})"


def _is_whole(file: BinaryIO) -> bool:
    """Whether a file ends in the digest of its content."""
    rest = file.seek(0, os.SEEK_END) - _TAIL
    if rest < 0:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    while rest:
        piece = file.read(min(rest, 1 << 22))
        if not piece:
            return False
        digest.update(piece)
        rest -= len(piece)
    return file.read() == _MARK + digest.digest()


def _remedy(path: Path) -> str:
    """Advice to use the other checkpoint of the run, where there is one."""
    other = path.with_name(_OTHER.get(path.name, path.name))
    if other != path and other.is_file():
        return f": copy {other.name}, the run's other checkpoint, over it"
    return ": restore it from a copy, or train anew with another --out"


def random_state() -> dict[str, Any]:
    """Read the states of the global generators of Python, NumPy and torch (CPU and current GPU)."""
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)
    name, keys, position, has_gauss, gauss = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def load_random_state(state: dict[str, Any]) -> None:
    """Continue the global generators from ``random_state()``; a GPU's is skipped where there is none."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
