"""Checkpoints: written whole or not at all, read without running code from them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpl_fast.trainer.replacing import replacing

__all__ = ["load_checkpoint", "load_random_state", "random_state", "save_checkpoint"]

_FORMAT = "fpl-fast checkpoint"
_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all (``replacing``).

    Args:
        path: File to write; its folder exists, and no other process writes it.
        state: Nested containers of tensors, numbers and strings.

    Raises:
        OSError: The file could not be written; the previous one is untouched.
    """
    with replacing(path) as file:
        torch.save({"format": _FORMAT, "version": _VERSION, **state}, file)


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
