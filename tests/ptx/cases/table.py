"""The table of cases, and what they are made of."""

import functools
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from kernel_cases import draw_logits
from torch import Tensor

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
DTYPES = {"bf16": BF16, "fp16": F16, "fp32": F32, "fp64": torch.float64}
UNCAPPED = 10_000
_MOST_DRAWS = 5000


class Case(ABC):
    """A call of a launcher with its inputs."""

    @abstractmethod
    def run(self) -> dict[str, Tensor]:
        """Call it; returns the results by name."""

    @abstractmethod
    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        """The errors over what is allowed, by name."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Inputs, which have to stay as they are."""

    def is_clear(self) -> bool:
        """Whether nothing that is compared exactly hangs on rounding."""
        return True


CASES: dict[str, Callable[[], Case]] = {}
QUICK: set[str] = set()  # names of the cases that stand for all


def add(name: str, make: Callable[..., Case], *args: Any, quick: bool = False, **keywords: Any) -> None:
    """Add a case that ``make`` draws."""
    assert name not in CASES, name
    CASES[name] = functools.partial(make, *args, **keywords)
    if quick:
        QUICK.add(name)


def draw(name: str, seed: int) -> Case:
    """A case of random inputs, drawn until nothing hangs on rounding."""
    for attempt in range(_MOST_DRAWS):
        torch.manual_seed(zlib.crc32(f"{seed} {name} {attempt}".encode()))
        case = CASES[name]()
        if case.is_clear():
            return case
    raise RuntimeError(f"{name}: no draw without pixels that hang on rounding; take fewer pixels")


def logits(
    shape: tuple[int, ...], dtype: str, layout: str = "nchw", *, spread: float = 3.0, ties: bool = False
) -> Tensor:
    """Random logits in a layout."""
    return LAYOUTS[layout](draw_logits(*shape, dtype=DTYPES[dtype], spread=spread, ties=ties))


def moved(x: Tensor, elements: int = 1) -> Tensor:
    """The same tensor, of any dense layout, whose memory begins some elements further on."""
    base = torch.full((x.numel() + elements + 5,), math.nan if x.is_floating_point() else 0, dtype=x.dtype)
    return base.as_strided(x.shape, x.stride(), elements).copy_(x)


def channels_last(x: Tensor) -> Tensor:
    """The classes of a pixel side by side."""
    return x.to(memory_format=torch.channels_last)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nchw": lambda x: x,
    "channels_last": channels_last,
    "pixel_slice": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    "class_slice": lambda x: torch.cat([x, x * math.nan], dim=1)[:, : x.shape[1]],
    "crop": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1), value=math.nan)[:, :, 3:-1, 1:-2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch_inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "moved": moved,
    "channels_last_moved": lambda x: moved(channels_last(x), 3),
    "channels_last_padded": lambda x: channels_last(torch.cat([x, x * math.nan], dim=1))[:, : x.shape[1]],
}


def box(images: int, height: int, width: int) -> Tensor:
    """A mask of CutMix, whose first image has a box and whose others have none."""
    mask = torch.zeros(images, height, width, dtype=torch.bool)
    mask[0, height // 4 : max(height // 2, height // 4 + 1), width // 3 :] = True
    return mask
