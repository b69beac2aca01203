"""What a run is: one frozen, typed value, checked when it is made (config_io.py reads and writes it).

Every number of a run lives here, so that the ``config.yaml`` of a run folder is enough to repeat it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

__all__ = [
    "AugmentConfig",
    "CityscapesData",
    "DataConfig",
    "EvalConfig",
    "FileData",
    "FolderData",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "PublicData",
    "RunConfig",
    "SyntheticData",
    "TrainConfig",
    "VocData",
]

BATCHES_AHEAD = 2
"""Batches that each loader process reads ahead."""

_Class = TypeVar("_Class")


def _config(cls: type[_Class]) -> type[_Class]:
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


def _require(rule: bool, name: str, text: str, value: object) -> None:
    if not rule:
        raise ValueError(f"{name} must be {text}, got {value!r}")


def _check_scale_range(scales: tuple[float, float], name: str) -> None:
    _require(0 < scales[0] <= 1 <= scales[1], name, "two factors around 1", scales)


@_config
class DataConfig:
    """What every data set has: the colours it is normalised with."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, in units of full scale (ImageNet's, as torchvision states them)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue, in units of full scale."""

    def __post_init__(self) -> None:
        _require(min(self.std) > 0, "data.std", "> 0", self.std)


@_config
class SyntheticData(DataConfig):
    """Procedurally drawn street scenes: nothing to download, the same pictures for the same seed on any machine."""

    ignore_index: ClassVar[int] = 255
    """Label value of void pixels, as they are drawn."""
    kind: Literal["synthetic"] = "synthetic"
    """Names the kind of data set; fixed by the recipe."""
    num_labelled: int = 6
    """Images trained on with their labels."""
    num_unlabelled: int = 400
    """Further images trained on without labels."""
    num_val: int = 100
    """Images evaluated on."""
    size: tuple[int, int] = (64, 96)
    """Height and width of the images, pixels."""
    seed: int = 0
    """Seed of the scenes; another seed is another data set."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        for name in ("num_labelled", "num_unlabelled", "num_val"):
            _require(getattr(self, name) >= 1, f"data.{name}", ">= 1", getattr(self, name))
        _require(min(self.size) >= 32, "data.size", ">= 32 pixels on either side", self.size)
        _require(self.seed >= 0, "data.seed", ">= 0", self.seed)


@_config
class FileData(DataConfig):
    """What data sets of images, 8-bit index PNGs and list files have in common."""

    root: str = "data"
    """Folder that all other paths of the data set start from."""
    packed: str | None = None
    """Folder that fpl-fast data pack decodes the pictures into and training reads them from; null decodes files."""
    check: bool = True
    """Whether every picture is read before a run begins, so that a bad one is known at once."""
    ignore_index: int = 255
    """Label value of pixels that no loss and no metric counts."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        _require(0 <= self.ignore_index <= 255, "data.ignore_index", "in [0, 255]", self.ignore_index)


@_config
class FolderData(FileData):
    """Images, index-PNG labels and list files in a folder; unlabelled images need no label files."""

    kind: Literal["folder"] = "folder"
    """Names the kind of data set; fixed by the recipe."""
    images: str = "images/train/{}.jpg"
    """Path of a training image; {} stands for its entry in the list file ("{}" where lists hold whole paths)."""
    labels: str = "labels/train/{}.png"
    """Path of a training label, an 8-bit index PNG of the image's size."""
    labelled: str = "lists/labelled.txt"
    """List file of the images trained on with their labels."""
    unlabelled: str = "lists/unlabelled.txt"
    """List file of the images trained on without labels."""
    val_images: str = "images/val/{}.jpg"
    """Path of a validation image."""
    val_labels: str = "labels/val/{}.png"
    """Path of a validation label."""
    val: str = "lists/val.txt"
    """List file of the validation images."""
    num_classes: int = 11
    """Number of classes; labels run from 0 to num_classes - 1."""
    label_ignore: tuple[int, ...] = ()
    """Label values in the files, besides ignore_index, that mean "no label"."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in order, for reports; empty means "0", "1", ..."""

    def __post_init__(self) -> None:
        FileData.__post_init__(self)
        _require(2 <= self.num_classes <= 255, "data.num_classes", "in [2, 255]", self.num_classes)
        _require(
            len(self.class_names) in (0, self.num_classes),
            "data.class_names",
            f"empty or {self.num_classes} names",
            self.class_names,
        )


@_config
class PublicData(FileData):
    """A public data set whose training images are partly labelled: list files of the public names, or chosen."""

    partition: Literal["1/32", "1/16", "1/8", "1/4", "1/2"] = "1/8"
    """Part of the training images that is labelled. Its list file is read where there is one; otherwise the images
    are chosen by name, the smaller parts inside the larger ones."""
    partition_seed: int = 0
    """Seed of that choice; list files do not depend on it."""
    train: str | None = None
    """List file of all training images; null is the public name."""
    labelled: str | None = None
    """List file of the images trained on with their labels, instead of a partition."""
    unlabelled: str | None = None
    """List file of the images trained on without labels; null is the rest of the training images."""
    val: str | None = None
    """List file of the validation images; null is the public name."""


@_config
class VocData(PublicData):
    """PASCAL VOC 2012 with SBD's labels: train_aug and val; or the official JPEGImages and SegmentationClassAug."""

    kind: Literal["voc"] = "voc"
    """Names the kind of data set; fixed by the recipe."""
    root: str = "data/pascal_voc"
    """Folder that all other paths of the data set start from."""


@_config
class CityscapesData(PublicData):
    """Cityscapes: images/SPLIT, segmentation/SPLIT and config_new; or the official leftImg8bit and gtFine."""

    kind: Literal["city"] = "city"
    """Names the kind of data set; fixed by the recipe."""
    root: str = "data/city"
    """Folder that all other paths of the data set start from."""


@_config
class AugmentConfig:
    """Random flip, scale and crop, the same for labelled and unlabelled images."""

    crop: tuple[int, int] = (512, 512)
    """Height and width of a training crop, pixels; smaller images are padded, centred."""
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    """Factors of image size that are drawn from uniformly (CPS has no 1.25)."""
    scale_range: tuple[float, float] | None = None
    """Range of continuous scales, half of them below and half above 1, that replaces ``scales``; 0.5 to 2 in AEL."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    pad_label: Literal["ignore", "zero"] = "ignore"
    """Label of padding: none, or class 0 as in the public code of AEL, which so trains "road" or "background" on it."""

    def __post_init__(self) -> None:
        _require(min(self.crop) >= 1, "augment.crop", ">= 1 pixel on either side", self.crop)
        _require(bool(self.scales) and min(self.scales) > 0, "augment.scales", "one or more factors > 0", self.scales)
        if self.scale_range is not None:
            _check_scale_range(self.scale_range, "augment.scale_range")
        _require(0 <= self.flip <= 1, "augment.flip", "in [0, 1]", self.flip)


@_config
class ModelConfig:
    """A backbone of any kind that timm knows, under the DeepLabv3+ head of CPS or of AEL."""

    backbone: str = "resnet50"
    """"resnet50" or "resnet101" (the deep-stem networks of CPS and AEL), or the name of any timm model."""
    head: Literal["cps", "ael"] = "cps"
    """Decoder: that of CPS (made for output stride 16), or that of AEL with its auxiliary head and dropout (for 8)."""
    output_stride: int | None = 16
    """Image size over size of the deepest features; null is the backbone's own, for those that cannot be dilated."""
    head_channels: int = 256
    """Channels of the head's features."""
    low_channels: int = 48
    """"cps": channels that the stride-4 features are reduced to ("ael" keeps head_channels)."""
    pretrained: bool = False
    """Whether timm downloads its ImageNet weights."""
    weights_file: str | None = None
    """File of backbone weights (a state dict) to start from instead; names that do not fit are reported."""

    def __post_init__(self) -> None:
        for name in ("head_channels", "low_channels"):
            _require(getattr(self, name) >= 1, f"model.{name}", ">= 1", getattr(self, name))
        if self.pretrained and self.weights_file is not None:
            raise ValueError("model.weights_file must be null when model.pretrained is true: they exclude each other")


@_config
class MethodConfig:
    """What is minimised.

    ``supervised`` reads ``sup_loss``, ``ohem_min_kept``, ``aux_weight`` and ``engine``; reports take ``threshold`` and
    ``max_positives`` of any method for their maps of K.
    """

    name: Literal["supervised", "cps", "mean_teacher", "cutmix_seg", "ael"] = "cps"
    """Training method."""
    sup_loss: Literal["ce", "ohem"] = "ce"
    """Supervised loss: cross entropy over labelled pixels, or over the hard ones of each image only."""
    ohem_min_kept: int = 50_000
    """"ohem": pixels kept per image at least (CPS: 50 000 of 800 x 800)."""
    aux_weight: float = 0.4
    """Factor of the supervised loss of an auxiliary head, where the network has one."""
    loss: Literal["ce", "fpl", "mse"] = "fpl"
    """Unsupervised loss: cross entropy with the pseudo-label, Fuzzy Positive Learning, or (mean_teacher and cutmix_seg
    only) the squared difference of probabilities, as their authors have it."""
    engine: Literal["auto", "triton", "compiled", "eager"] = "auto"
    """What computes the losses; "eager" is the same recipe unfused. Losses with labels have no "compiled" engine."""
    cutmix: bool = True
    """"cps": whether the unsupervised loss is taken on CutMixed unlabelled images, instead of on all images as they
    are."""
    partner: Literal["different", "same"] = "different"
    """"cps" and "cutmix_seg": what CutMix pastes, "different" images, as CutMix means and the authors of CPS intend, or
    two views of the "same" image, as their samplers do. The published tables were made with "same"; "different" is the
    default because it adds context that no single image has."""
    mix_boxes: int = 3
    """CutMix: boxes a mask, combined by exclusive or; 3 in CPS, 1 in CutMix-Seg and AEL."""
    mix_area: tuple[float, float] = (0.25, 0.5)
    """CutMix: range of a mask's area before overlaps cancel, in parts of the image; 0.5 to 0.5 in CutMix-Seg and
    AEL."""
    unsup_weight: float = 1.0
    """Factor of the unsupervised loss."""
    ema_decay: float = 0.99
    """Decay of a teacher's moving average, a step."""
    confidence_threshold: float = 0.0
    """Probability from which a teacher's pixel counts as sure. "cutmix_seg": the share of sure pixels weighs the whole
    loss (0.97 in the public code). "ael" with "ce": others are left out (0.7 on PASCAL VOC, 0 on Cityscapes)."""
    confidence_power: float = 2.0
    """"ael": exponent of the teacher's confidence as a pixel weight."""
    equalize_power: float = 1.0
    """"ael": exponent of a class's rate of sampling; 0 samples all pixels."""
    bank_momentum: float = 0.999
    """"ael": momentum of the bank of confidences, a step."""
    paste_probability: float = 0.5
    """"ael": share of the labelled images that pixels of another are pasted into."""
    paste_draws: int = 3
    """"ael": classes drawn a step to be pasted; 3 on Cityscapes, 1 on PASCAL VOC."""
    paste_exclude: tuple[int, ...] = ()
    """"ael": classes that are never pasted. The public code excludes 0, 1, 2, 8 and 10: on Cityscapes road, sidewalk,
    building, vegetation and sky; on PASCAL VOC, where background (0) alone is argued for, four arbitrary objects."""
    paste_scales: tuple[float, float] = (0.1, 2.0)
    """"ael": range of the scales of an image that is pasted from, as augment.scale_range."""
    component_area: float = 0.005
    """"ael": share of the image that a component pasted by CutMix exceeds; 0.005 on Cityscapes, 0.03 on PASCAL VOC."""
    bank_area: float = 0.01
    """"ael": share of an image from which a class counts as held by it; 0.01 on Cityscapes, 0.03 on PASCAL VOC."""
    donor_lead: int = 24
    """"ael": steps between the choice of a CutMix donor and its use, in which loaders read it."""
    threshold: float = 0.9
    """"fpl": probability T_u that the fuzzy positives and the first negative accumulate to."""
    max_positives: int | None = 3
    """"fpl": cap on the number of fuzzy positives; 3 made the published tables, null is the paper's rule."""
    weighting: Literal["none", "linear", "convex", "concave"] = "none"
    """"fpl": pixel weight from the margin to the first rejected class."""
    balance: bool = True
    """"fpl": whether both directions are rescaled by one factor to the value of the plain pseudo-label loss."""
    ignore_padding: bool = False
    """Whether pixels outside the image are left out of the unsupervised loss; CPS counts them."""

    def __post_init__(self) -> None:
        _require(self.ohem_min_kept >= 1, "method.ohem_min_kept", ">= 1 pixel", self.ohem_min_kept)
        for name in ("aux_weight", "unsup_weight", "confidence_power", "equalize_power"):
            _require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        _require(self.loss != "mse" or self.name in ("mean_teacher", "cutmix_seg"), "method.loss",
                 f"'ce' or 'fpl' with {self.name}", self.loss)  # fmt: skip
        _require(self.mix_boxes >= 1, "method.mix_boxes", ">= 1", self.mix_boxes)
        _require(0 < self.mix_area[0] <= self.mix_area[1] <= 1, "method.mix_area", "an ascending pair in (0, 1]",
                 self.mix_area)  # fmt: skip
        for name in ("ema_decay", "confidence_threshold", "bank_momentum", "paste_probability", "component_area",
                     "bank_area"):  # fmt: skip
            _require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        for name in ("paste_draws", "donor_lead"):
            _require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))
        _check_scale_range(self.paste_scales, "method.paste_scales")
        _require(0 < self.threshold <= 1, "method.threshold", "in (0, 1]", self.threshold)
        _require(self.max_positives is None or self.max_positives >= 1, "method.max_positives", ">= 1 or null",
                 self.max_positives)  # fmt: skip


@_config
class OptimConfig:
    """SGD with momentum under lr(step) = lr * (1 - step / steps) ** power."""

    lr: float = 0.0025
    """Learning rate at the first step, for 8 labelled images a step. The published 0.01 and 0.02 act as 0.0025: the
    public code divides its loss by the number of processes once more than it shows."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 4e-4
    """Weight decay, of convolution and linear weights only; 1e-4 times the number of processes of the public code."""
    decay_all: bool = False
    """Whether biases and normalisation decay as well, as in the public code of AEL."""
    head_lr_scale: float = 1.0
    """Learning rate of all that is not the backbone, over the backbone's; 10 in AEL."""
    power: float = 0.9
    """Exponent of the learning-rate schedule."""
    implementation: Literal["auto", "torch", "apex"] = "auto"
    """Fused SGD of PyTorch or of NVIDIA apex; "auto" takes apex on a GPU where it is installed from source."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", "> 0", self.lr)
        _require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "optim.weight_decay", ">= 0", self.weight_decay)
        _require(self.head_lr_scale > 0, "optim.head_lr_scale", "> 0", self.head_lr_scale)
        _require(self.power >= 0, "optim.power", ">= 0", self.power)


@_config
class TrainConfig:
    """Length, batches and hardware of a run."""

    steps: int = 40_000
    """Optimiser steps."""
    batch_labelled: int = 8
    """Labelled images a step, over all processes."""
    batch_unlabelled: int = 8
    """Unlabelled images a step, over all processes; with CutMix as many mixed ones from twice as many."""
    accumulate: int = 1
    """Micro-batches that the images of a step pass through one after another, to need less memory. The gradient is that
    of the whole step except for what a micro-batch has of its own: batch normalisation, dropout, and scalings that need
    its predictions, such as method.balance."""
    seed: int = 0
    """Seed of weights, order, augmentation and masks."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device."""
    devices: int = 1
    """Devices of one machine; under torchrun its own count holds."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of the networks; the losses always accumulate in float32."""
    channels_last: bool = True
    """Whether images and convolutions are laid out with the channels innermost."""
    compile: bool = False
    """Whether the networks go through torch.compile."""
    workers: int = 2
    """Loader processes of each training process and image stream; 0 loads in the training process."""
    threads: int = 0
    """CPU threads that a training process computes with; 0 leaves it to torch. Small networks want 1: threads that
    wait for each other cost more than they do, many times more on a machine that has other work."""
    log_every: int = 20
    """Steps between log lines; the device is read at no other time."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_labelled", "batch_unlabelled", "accumulate", "devices", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}", ">= 1", getattr(self, name))
        for name in ("seed", "workers", "threads"):
            _require(getattr(self, name) >= 0, f"train.{name}", ">= 0", getattr(self, name))


@_config
class EvalConfig:
    """When and how the network of a run (the teacher, in AEL and CutMix-Seg) is measured on the validation images."""

    every: int = 2000
    """Steps between evaluations; the last step is always evaluated."""
    protocol: Literal["cps", "ael", "ael_crop", "whole"] = "whole"
    """How an image is run: "cps" sums the logits of overlapping windows, "ael" averages their probabilities,
    "ael_crop" looks at the centre alone, as AEL does while it trains, "whole" runs the image in one pass."""
    window: tuple[int, int] = (800, 800)
    """Height and width of a window (neighbours lie 2/3 of it apart) or of the centred crop, pixels; not for "whole"."""
    samples: int = 6
    """Validation pictures kept for the report."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, "eval.every", ">= 1", self.every)
        _require(min(self.window) >= 1, "eval.window", ">= 1 pixel on either side", self.window)
        _require(self.samples >= 0, "eval.samples", ">= 0", self.samples)


@_config
class RunConfig:
    """A whole run. Recipes (recipes.py) make it, ``config.yaml`` of the run folder holds it."""

    recipe: str = ""
    """Name of the recipe this configuration started from, for the reader."""
    data: SyntheticData | FolderData | VocData | CityscapesData = field(default_factory=SyntheticData)
    """Data set."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """Training method."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, batches, hardware."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""

    def __post_init__(self) -> None:
        read_ahead = BATCHES_AHEAD * self.train.workers
        if self.method.name == "ael":
            _require(self.method.donor_lead > read_ahead, "method.donor_lead",
                     f"> {read_ahead}, the batches that train.workers read ahead", self.method.donor_lead)  # fmt: skip
