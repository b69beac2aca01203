"""Tensors of a case: what they hold, how they lie in memory, and the poison around them."""

import dataclasses
import math
from typing import Any

import torch
from fuzz_cases import Case
from torch import Tensor

PIXEL_TENSORS = ("threshold", "valid_mask", "pixel_weight", "mix_mask", "target")
LABEL_POISON = 222  # no class, never ignored


@dataclasses.dataclass
class Call:
    """Arguments of one call, and the buffers in which its tensors lie."""

    case: Case
    tensors: dict[str, Tensor]
    options: dict[str, Any]
    upstream: Tensor  # gradient that comes back: 0-d, or (N, H, W) for losses of pixels
    buffers: dict[str, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)  # with a copy from before

    @property
    def logits(self) -> Tensor:
        """The first argument."""
        return next(iter(self.tensors.values()))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.options.get("size") or self.logits.shape[2:]
        return height, width

    def written(self) -> list[str]:
        """Names of the tensors whose buffers have changed."""
        return [name for name, pair in self.buffers.items() if not torch.equal(*(x.view(torch.uint8) for x in pair))]

    def with_options(self, **options: Any) -> "Call":
        """The call with other options."""
        return dataclasses.replace(self, options=self.options | options)

    def image(self, i: int) -> "Call":
        """The call of one image alone."""
        tensors = {name: x if name == "weight" else x[i : i + 1] for name, x in self.tensors.items()}
        upstream = self.upstream[i : i + 1] if self.upstream.ndim else self.upstream
        return Call(self.case, tensors, self.options, upstream)


def build(case: Case, device: str) -> Call:
    """The tensors and options of a case; the same ones whenever it is built."""
    given = case.settings
    g = torch.Generator().manual_seed(case.seed)
    native = tuple(given[name] for name in ("n", "c", "h", "w"))
    size = upsampled(given.get("size"), native[2], native[3])
    n, c, pixels = native[0], native[1], (native[0], *(size or native[2:]))
    values: dict[str, tuple[Tensor, str]] = {}
    layout = given.get("pixel_layout", "contiguous")
    if given.get("pixel_weight") == "nan where excluded" and layout == "expanded":
        layout = "sliced"  # or other pixels would be excluded than those of NaN

    def logits(name: str, prefix: str, dtype: str) -> None:
        drawn = contents(given[f"{prefix}content"], native, getattr(torch, dtype), g)
        values[name] = drawn, given[f"{prefix}layout"]

    if "dtype" in given:
        logits("logits" if "labels" in given else "student_logits", "", given["dtype"])
    if "teacher_dtype" in given:
        logits("teacher_logits", "teacher_", given["teacher_dtype"])
    if given.get("partner_dtype"):
        logits("partner_logits", "teacher_", given["partner_dtype"])
        share = {"some": 0.5, "all": 1.0, "nothing": 0.0}[given["mix"]]
        values["mix_mask"] = torch.rand(pixels, generator=g) < share, layout
    if "labels" in given:
        values["target"] = labels(case, c, pixels, g), layout
    if given.get("valid"):
        share = {"all": 1.0, "some": 0.7, "few": 0.2, "nothing": 0.0}[given["valid"]]
        values["valid_mask"] = torch.rand(pixels, generator=g) < share, layout
    if given.get("threshold") == "pixels":
        chosen = torch.tensor([-1.0, 0.0, 0.3, 0.7, 0.9, 1.0, 2.0, math.nan])
        values["threshold"] = chosen[torch.randint(8, pixels, generator=g)], layout
    if given.get("pixel_weight"):
        values["pixel_weight"] = _pixel_weight(given, values, pixels, g), layout
    if given.get("weight"):
        dtype = torch.float64 if given["weight"] == "float64" else torch.float32
        values["weight"] = torch.rand(c, generator=g).to(dtype) * (given["weight"] != "zeros"), "strided"

    tensors, buffers = {}, {}
    for name, (x, layout) in values.items():
        tensors[name], buffer = place(x, layout, g, device)
        buffers[name] = buffer, buffer.clone()
    upstream = torch.tensor(given.get("upstream", 1.0), dtype=torch.float64, device=device)
    if given.get("reduction") == "none":
        upstream = upstream * torch.rand(pixels, generator=g).to(device)
    return Call(case, tensors, _options(given, size, n), upstream, buffers)


def _options(given: dict[str, Any], size: tuple[int, int] | None, n: int) -> dict[str, Any]:
    plain = ("align_corners", "max_positives", "weighting", "convex_scale", "form", "confidence_threshold", "balance",
             "confidence_power", "reduction", "return_stats", "ignore_index", "min_kept", "thresholds",
             "window", "kind")  # fmt: skip
    options = {name: given[name] for name in plain if name in given}
    if given.get("threshold", "pixels") != "pixels":
        options["threshold"] = given["threshold"]
    if "group_size" in given:
        options["group_size"] = max(n, 1) if given["group_size"] == "all" else given["group_size"]
    return options if size is None else options | {"size": size}


def upsampled(size: str | None, h: int, w: int) -> tuple[int, int] | None:
    """(H, W) of a case, None where nothing is upsampled or there is nothing to upsample."""
    if size is None or h * w == 0:
        return None
    wider = w + 3 if w > 100 else 2 * w + 1
    return {"same": (h, w), "up": (2 * h + 1, wider), "down": (max(h // 2, 1), max(w - 1, 1)), "one": (1, 1)}[size]


def contents(kind: str, shape: tuple[int, ...], dtype: torch.dtype, g: torch.Generator) -> Tensor:
    """Logits of a kind, (N, C, h, w)."""
    info = torch.finfo(dtype)
    normal = torch.randn(shape, generator=g, dtype=torch.float64)
    uniform = torch.rand(shape, generator=g, dtype=torch.float64)

    def one_of(*numbers: float) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[torch.randint(len(numbers), shape, generator=g)]

    if kind == "denormal":
        x = one_of(info.tiny, info.smallest_normal / 8, -info.tiny / 4, 0.0, -0.0) * uniform.mul(4).round()
    elif kind == "all magnitudes":
        x = normal.sign() * 10 ** (
            math.log10(info.tiny) + uniform * (math.log10(info.max / 100) - math.log10(info.tiny))
        )
    elif kind == "masked classes":
        # Here and there and, in some of the images, all before one: kernels read classes in their order.
        first = shape[1] * (2 * torch.rand(shape[0], 1, 1, 1, generator=g) - 1)
        hidden = (uniform[:, :, :1, :1] < 0.4) | (torch.arange(shape[1]).view(-1, 1, 1) < first.floor())
        x = torch.where(hidden, info.min, 3 * normal)
    elif kind == "edge":
        x = torch.where(uniform < 0.5, 3 * normal, one_of(info.max / 20, info.min / 20, info.max / 40, 1e4, 0.0))
    elif kind == "overflow":
        x = torch.where(uniform < 0.5, 3 * normal, one_of(info.max, info.min, info.max / 2, 0.0))
    elif kind == "not finite":
        x = torch.where(uniform < 0.05, one_of(math.nan, math.inf, -math.inf), 3 * normal)
    elif kind == "signed zeros":
        x = one_of(0.0, -0.0, 0.0, -0.0, 1.0, -1.0)
    elif kind == "ties":
        x = normal.round()
    else:
        x = {"normal": 3.0, "zeros": 0.0, "flat": 1e-3, "sharp": 30.0, "large": 1e4}[kind] * normal
    return x.to(dtype)


def labels(case: Case, c: int, pixels: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Labels of a kind, (N, H, W); those that are to be ignored hold ``ignore_index`` where the dtype can."""
    kind, dtype, ignored = (
        case.settings["labels"],
        getattr(torch, case.settings["target_dtype"]),
        (case.settings["ignore_index"]),
    )
    target = torch.randint(c, pixels, generator=g)
    if kind == "one class":
        target = target * 0 + c - 1
    share = {"some ignored": 0.3, "all ignored": 1.0}.get(kind, 0.0)
    if torch.iinfo(dtype).min <= ignored <= torch.iinfo(dtype).max:
        target = target.masked_fill(torch.rand(pixels, generator=g) < share, ignored)
    if kind == "no class":
        target = target.masked_fill(torch.rand(pixels, generator=g) < 0.05, 200)
    return target.to(dtype)


def _pixel_weight(
    given: dict[str, Any], values: dict[str, tuple[Tensor, str]], pixels: tuple[int, ...], g: torch.Generator
) -> Tensor:
    kind = given["pixel_weight"]
    weight = torch.rand(pixels, generator=g, dtype=torch.float64)
    if kind == "zeros":
        return weight.round().float()
    if kind != "nan where excluded":
        return weight.to(getattr(torch, kind))
    if "target" in values:
        return weight.masked_fill(values["target"][0].long() == given["ignore_index"], math.nan).float()
    return weight.masked_fill(~values["valid_mask"][0], math.nan).float() if "valid_mask" in values else weight.float()


def place(values: Tensor, layout: str, g: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
    """A tensor with these values and this layout, and the poisoned buffer of bytes around it.

    The band before it has any number of elements, so that addresses are not aligned.
    """
    if layout == "expanded" and values.numel():
        dims = ((0,), (values.ndim - 1,), (0, values.ndim - 2), (1,))[int(torch.randint(4, (), generator=g))]
        one = values
        for dim in dims:
            one = one.narrow(dim, 0, 1)
        view, buffer = place(one, "contiguous", g, device)
        return view.expand(values.shape), buffer
    order = list(range(values.ndim))
    if layout == "channels_last":
        order = [0, 2, 3, 1]
    elif layout == "transposed":
        order[-2:] = order[-1], order[-2]
    before, step = (1 if layout == "sliced" else 0), (2 if layout == "strided" else 1)
    extents = [values.shape[dim] * step + 3 * before for dim in order]
    band = 16 + int(torch.randint(4, (), generator=g))
    buffer = torch.empty(2 * band + math.prod(extents), dtype=values.dtype)
    if values.is_floating_point():
        buffer.fill_(math.nan)
    elif values.dtype == torch.bool:
        buffer.copy_(torch.rand(buffer.shape, generator=g) < 0.5)
    else:
        buffer.fill_(LABEL_POISON)
    buffer = buffer.to(device)
    block = buffer[band : band + math.prod(extents)].view(extents)
    block = block[tuple(slice(before, before + values.shape[dim] * step, step) for dim in order)]
    view = block.permute([order.index(dim) for dim in range(values.ndim)])
    assert view.shape == values.shape
    if layout == "negative":
        view.copy_(-values)
        return torch._neg_view(view), buffer
    view.copy_(values)
    return view, buffer
