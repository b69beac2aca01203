"""Auxiliary decoders of Cross-Consistency Training: each sees the features under a perturbation of its own kind."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fpl_fast.trainer.config.method import MethodPart
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.contours import Contours, erase_boxes, find_contours
from fpl_fast.trainer.methods.perturbations import (
    add_noise,
    adversarial_noise,
    drop_channels,
    drop_salient,
    keep_pixels,
)
from fpl_fast.trainer.methods.predictions import predict
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["AuxiliaryDecoders", "DecodersPart"]

_DROPOUT = 0.5
_NOISE = 0.3
_GAMMA = (0.7, 0.9)
_MIN_POINTS = 50

KINDS = ("dropout", "cutout", "context", "object", "salient", "noise", "adversarial")
"""Kinds of decoders, in the order in which they are made and draw their numbers."""
GUIDED = ("cutout", "context", "object")
"""Kinds whose perturbation depends on what the main decoder predicts."""


@config_class
class DecodersPart(MethodPart):
    """Settings of auxiliary decoders."""

    dropout_decoders: int = 2
    """Auxiliary decoders whose features lose half of their channels at random; 2 of each kind in the code of CPS, 6 in
    CCT's own."""
    cutout_decoders: int = 2
    """Auxiliary decoders whose features lose a box in each large object that is predicted; 6 in CCT's own code."""
    context_decoders: int = 2
    """Auxiliary decoders that see features of predicted objects alone, without background; 2 in CCT's own code."""
    object_decoders: int = 2
    """Auxiliary decoders that see features of predicted background alone, without objects; 2 in CCT's own code."""
    salient_decoders: int = 2
    """Auxiliary decoders whose features lose the most active pixels; 6 in CCT's own code."""
    noise_decoders: int = 2
    """Auxiliary decoders whose features are multiplied by noise of up to 30 %; 6 in CCT's own code."""
    adversarial_decoders: int = 0
    """Auxiliary decoders with the noise that changes their predictions most (virtual adversarial training); none in the
    code of CPS, which lists 2 and builds none, 2 in CCT's own."""
    adversarial_radius: float = 2.0
    """Length of the adversarial noise of an image's features."""
    adversarial_step: float = 0.1
    """Length of the step that finds the adversarial noise. With the 1e-6 in the configuration of CCT's code, rounding
    decides the direction of the noise, and its length is below 0.02 instead of 2."""
    background: tuple[int, ...] = (0,)
    """Classes that are background to cutout, context and object decoders; 0 in the public codes, which on Cityscapes
    would be the road alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in KINDS:
            require(self.num_decoders(kind) >= 0, f"method.{kind}_decoders", ">= 0", self.num_decoders(kind))
        if not sum(map(self.num_decoders, KINDS)):
            options = ", ".join(f"method.{kind}_decoders" for kind in KINDS)
            raise ValueError(f"at least one auxiliary decoder is needed: give one of {options}, got 0 for each")
        for name in ("adversarial_radius", "adversarial_step"):
            require(getattr(self, name) > 0, f"method.{name}", "> 0", getattr(self, name))

    def num_decoders(self, kind: str) -> int:
        """Number of decoders of a kind."""
        number: int = getattr(self, f"{kind}_decoders")
        return number


class AuxiliaryDecoders(nn.Module):
    """Decoders of perturbed features, each a 1 x 1 convolution like the main one.

    The kinds, with the features h and random numbers u, uniform in [0, 1):

    - dropout: each channel of an image is 0 or doubled, with equal probability;
    - cutout: a box of 0.4 x 0.4 is erased at a random place in the bounding box of each predicted object whose outer
      contour has more than 50 points (contours.py);
    - context: predicted background is erased; object: predicted objects are erased;
    - salient: pixels whose mean over channels reaches (0.7 + 0.2 u) times the image's highest mean are erased;
    - noise: h * (1 + 0.6 u - 0.3);
    - adversarial: h + the noise of ``adversarial_noise``.

    A decoder draws one u for all images of the step with "salient", and one for each channel and pixel with "noise";
    otherwise each image has numbers of its own. Weights start Kaiming-normal (fan-in), like CPS's classifier.

    Args:
        config: Numbers of decoders, by kind, and their settings.
        classifier: The main decoder, for its numbers of channels and classes.
    """

    background: Tensor

    def __init__(self, config: DecodersPart, classifier: nn.Conv2d) -> None:
        super().__init__()
        self.config = config
        self.kinds = [kind for kind in KINDS for _ in range(config.num_decoders(kind))]
        channels = (classifier.in_channels, classifier.out_channels)
        self.layers = nn.ModuleList(nn.Conv2d(*channels, 1, dtype=classifier.weight.dtype) for _ in self.kinds)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        # Not a setting that a checkpoint would have to hold.
        background = torch.tensor([c in config.background for c in range(classifier.out_channels)])
        self.register_buffer("background", background, persistent=False)

    def __len__(self) -> int:
        return len(self.kinds)

    def check_background(self) -> None:
        """Check the classes that are background.

        Raises:
            ValueError: A class does not exist, or none is left for objects.
        """
        given, num_classes = self.config.background, len(self.background)
        unknown = [c for c in given if not 0 <= c < num_classes]
        if unknown:
            raise ValueError(f"method.background must hold classes 0 ... {num_classes - 1}, got {unknown[0]}")
        if set(GUIDED) & set(self.kinds) and not 0 < len(set(given)) < num_classes:
            raise ValueError(
                f"method.background must hold some but not all of the {num_classes} classes, got {given}; without such "
                f"classes set {', '.join(f'method.{kind}_decoders' for kind in GUIDED)} to 0"
            )

    def forward(self, h: Tensor, main_logits: Tensor, size: tuple[int, int], random: StepRandom) -> list[Tensor]:
        """Decode features under perturbations.

        Args:
            h: (N, D, h, w).
            main_logits: (N, C, h, w), the main decoder's, without gradient.
            size: (H, W) of the images, at which objects are predicted.
            random: Numbers of the step.

        Returns:
            Logits (N, C, h, w) of each decoder.
        """
        objects = contours = None
        if set(GUIDED) & set(self.kinds):
            objects = ~self.background[predict(main_logits, size).label]
            contours = find_contours(objects) if "cutout" in self.kinds else None
        return [
            layer(self._perturbed(kind, h, layer, objects, contours, random))
            for kind, layer in zip(self.kinds, self.layers, strict=True)
        ]

    def _perturbed(
        self,
        kind: str,
        h: Tensor,
        layer: Callable[[Tensor], Tensor],
        objects: Tensor | None,
        contours: Contours | None,
        random: StepRandom,
    ) -> Tensor:
        """Perturb features for a decoder of a kind."""
        num, channels = h.shape[:2]
        if kind == "dropout":
            return drop_channels(h, random.rows(num, channels) >= _DROPOUT, _DROPOUT)
        if kind == "salient":
            return drop_salient(h, _GAMMA[0] + (_GAMMA[1] - _GAMMA[0]) * random.common(1).squeeze())
        if kind == "noise":
            return add_noise(h, _NOISE * (2 * random.common(*h.shape[1:]) - 1))
        if kind == "adversarial":
            return h + self._adversarial(h, layer, random).to(h.dtype)
        assert objects is not None
        if kind == "context":
            return keep_pixels(h, objects)
        if kind == "object":
            return keep_pixels(h, ~objects)
        assert kind == "cutout" and contours is not None
        start = random.rows(num, 2, contours.points.shape[1])
        height, width = objects.shape[1:]
        return keep_pixels(h, ~erase_boxes(contours, start, (height, width), min_points=_MIN_POINTS))

    def _adversarial(self, h: Tensor, layer: Callable[[Tensor], Tensor], random: StepRandom) -> Tensor:
        """Find adversarial noise, in the precision of the weights: its gradient is small."""
        config, num_images = self.config, len(h) * rank_and_world_size()[1]
        with torch.autocast(h.device.type, enabled=False):
            return adversarial_noise(
                h.to(self.layers[0].weight.dtype),  # type: ignore[arg-type]
                layer,
                random.rows(*h.shape) - 0.5,
                xi=config.adversarial_step,
                radius=config.adversarial_radius,
                num_images=num_images,
            )
