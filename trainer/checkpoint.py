"""Checkpoints: written whole or not at all, read without running code from them."""

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["load_checkpoint", "load_random_state", "random_state", "save_checkpoint"]

_FORMAT = "fpl-fast checkpoint"
_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that ``path`` holds either the previous or the new one, whatever happens meanwhile.

    What an earlier writer left half-written when it was killed is removed.

    Args:
        path: File to write; its folder exists, and no other process writes it.
        state: Nested containers of tensors, numbers and strings.

    Raises:
        OSError: The file could not be written; the previous one is untouched.
    """
    for abandoned in path.parent.glob(f".{path.name}.*"):
        abandoned.unlink()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": _FORMAT, "version": _VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    # The new name is on the disk only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: The file is missing, truncated, not a checkpoint of this project or of another version of it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: must be a checkpoint, got no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as unpickling has
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: must be a whole checkpoint file, got one that cannot be read ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{path}: must be a checkpoint of fpl-fast, got a foreign file")
    if state["version"] != _VERSION:
        raise ValueError(f"{path}: must have checkpoint version {_VERSION}, got {state['version']!r}")
    return state


def random_state() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and torch (CPU and current GPU)."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
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
