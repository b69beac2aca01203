"""Loading the weights of an encoder from a file, under several namings of its keys, with a log of unused tensors."""

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fpl_fast.trainer.models.efficientnet_names import rename_efficientnet
from fpl_fast.trainer.run.checkpoint import why_unreadable

__all__ = ["load_weights"]

_LOGGER = logging.getLogger(__name__)

# The three convolutions of a deep stem and their norms have the same names in timm and in the weights of CPS and AEL,
# and others elsewhere: {a key that identifies a naming: {its prefixes: ours}}.
_STEMS = {
    "conv3.weight": {
        "conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1",
    },
    "stem.6.weight": {
        "stem.0": "conv1.0", "stem.1": "conv1.1", "stem.3": "conv1.3", "stem.4": "conv1.4", "stem.6": "conv1.6",
        "stem.7": "bn1",
    },
}  # fmt: skip


def load_weights(module: nn.Module, path: str | PathLike[str]) -> None:
    """Load the tensors of a state dict whose names fit, and log the others.

    The dict may lie under "state_dict" or "model" and its names may start with "module." (data parallel). A deep stem
    (three 3 x 3 convolutions with 64, 64, 128 channels) may be called conv1.0, conv1.3, conv1.6 and bn1, as in the
    public ``resnet50_v1c`` files of CPS and in timm; conv1, conv2, conv3 and bn1, bn2, bn3; or stem.0 to stem.7. An
    EfficientNet may have the names of EfficientNet-PyTorch (:mod:`fpl_fast.trainer.models.efficientnet_names`).

    Args:
        module: Module to load the weights into.
        path: A file of ``torch.save``, loaded without running code from it, or a ``.safetensors`` file.

    Raises:
        ValueError: If the file cannot be read, no name fits, a shape differs, or an EfficientNet under those names
            lacks a layer.
    """
    own = module.state_dict()
    state = _rename_stem(_read(Path(path)), own)
    try:
        state = rename_efficientnet(state, own)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    fitting = own.keys() & state.keys()
    if not fitting:
        raise ValueError(f"{path}: weights_file must share names with the backbone, got {', '.join(list(state)[:3])} …")
    for name in sorted(fitting):
        if own[name].shape != state[name].shape:
            raise ValueError(
                f"{path}: {name} must have the shape {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
            )
    missing, unexpected = module.load_state_dict(state, strict=False)
    _LOGGER.info("%s: loaded %d of %d tensors", Path(path).name, len(fitting), len(own))
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # files may predate this counter
    if missing:
        _LOGGER.warning("%s lacks %s", Path(path).name, ", ".join(missing))
    if unexpected:
        _LOGGER.warning("%s: not used: %s", Path(path).name, ", ".join(unexpected))


def _read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # unpickling fails in too many ways to list
        raise ValueError(
            f"{path}: weights_file must be a readable file of weights, got one that {why_unreadable(error)}"
        ) from None
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: weights_file must hold a dict of tensors, got {type(state).__name__}")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _rename_stem(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a deep stem's tensors to timm's names, if the module with the tensors ``own`` has such a stem."""
    if "conv1.6.weight" not in own:
        return state
    prefixes = next((names for key, names in _STEMS.items() if key in state), {})
    renamed = {}
    for name, value in state.items():
        prefix = name.rpartition(".")[0]
        renamed[prefixes.get(prefix, prefix) + name[len(prefix) :]] = value
    return renamed
