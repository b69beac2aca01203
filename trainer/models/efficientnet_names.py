"""Names of timm for the tensors of an EfficientNet in the naming of EfficientNet-PyTorch (``_blocks.3._bn0.weight``).

Layers are matched by their names, never by their order: neighbouring layers of a block have equal shapes, so that a
wrong order could not be told from a right one.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["rename_efficientnet"]

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | _SQUEEZE
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
} | _SQUEEZE  # fmt: skip


def rename_efficientnet(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Rename the tensors of an EfficientNet-PyTorch file; those of any other file keep their names.

    Blocks, which that library counts through and timm counts by stage, are matched in order.

    Args:
        state: Tensors of the file, by name.
        own: Names of the encoder's tensors.

    Raises:
        ValueError: The encoder is another network: it has other blocks, or layers that the file lacks.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    own = set(own)
    places = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in own)
    blocks = sorted({(int(found[1]), int(found[2])) for found in places if found})
    numbers = {int(found[1]) for name in state if (found := re.match(r"_blocks\.(\d+)\.", name))}
    if numbers != set(range(len(blocks))):
        raise ValueError(
            f"weights_file must fit the backbone, got an EfficientNet of {len(numbers)} blocks for a backbone with "
            f"{len(blocks)} such blocks"
        )
    renamed = {}
    for name, value in state.items():
        place, layer, leaf = _parts(name)
        names, prefix = _OUTSIDE, ""
        if place is not None:
            names = _INVERTED if f"_blocks.{place}._expand_conv.weight" in state else _SEPARABLE
            prefix = "blocks.{}.{}.".format(*blocks[place])
        if layer not in names:
            raise ValueError(f"weights_file must hold the layers of an EfficientNet, got {name}")
        renamed[f"{prefix}{names[layer]}.{leaf}"] = value
    missing = sorted(name for name in own - renamed.keys() if not name.endswith("num_batches_tracked"))
    if missing:
        raise ValueError(f"weights_file must hold every layer of the backbone, got none for {', '.join(missing[:3])}")
    return renamed


def _parts(name: str) -> tuple[int | None, str, str]:
    """Split a name into the number of its block, its layer and its tensor."""
    found = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)", name)
    if found is None:
        raise ValueError(f"weights_file must hold the layers of an EfficientNet, got {name}")
    return (int(found[1]) if found[1] else None), found[2], found[3]
