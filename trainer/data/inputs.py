"""From data sets to the batches of a method."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric

from fpl_fast.trainer.config import (
    ColourPart,
    CutMixPart,
    PairedCropsPart,
    PairedCutMixPart,
    PartnerPart,
    PastePart,
    RunConfig,
    WeakStrongConfig,
)
from fpl_fast.trainer.config.views import PAIR_STRIDE
from fpl_fast.trainer.data.cutmix import cutmix_masks, fitting_boxes
from fpl_fast.trainer.data.damaged import SkipDamaged
from fpl_fast.trainer.data.datasets import TrainDatasets
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.data.loaders import ended
from fpl_fast.trainer.data.long_side import LongSideAugmentation
from fpl_fast.trainer.data.one_line import in_one_line
from fpl_fast.trainer.data.paired_crops import PairedCrops
from fpl_fast.trainer.data.stream import SampleStream, make_loader
from fpl_fast.trainer.data.strong import StrongAugmentation
from fpl_fast.trainer.data.transforms import Augmentation, normalize
from fpl_fast.trainer.methods import Batch, Place, View
from fpl_fast.trainer.models.normalization import normalization

__all__ = ["first_images", "read_batches"]


def read_batches(
    config: RunConfig,
    datasets: TrainDatasets,
    *,
    num_unlabelled_views: int,
    device: torch.device,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    donors: DonorQueue | None = None,
    paste: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of steps ``start_step`` ... ``config.train.steps - 1``, on the device, normalised.

    A step's batch depends on the seed and the step alone, not on where the run was resumed, the number of loader
    workers, or (taken over all processes) the number of processes.

    Args:
        config: The run.
        datasets: What to read.
        num_unlabelled_views: Views of unlabelled images a step, as the method asks.
        device: Where batches go.
        start_step: Step of the first batch.
        rank: Of this process.
        world_size: Number of processes, of which the batch sizes are multiples.
        donors: Chooses the images of the second unlabelled view. What it chooses depends on the training so far.
        paste: Whether batches hold labelled images to paste from.

    Returns:
        A generator; its loader processes end when it is closed.
    """
    pinned = device.type == "cuda"
    method = config.method
    mixed = num_unlabelled_views == 2 and donors is None
    same = mixed and isinstance(method, PartnerPart) and method.partner == "same"
    streams = _streams(config, datasets, num_unlabelled_views, same=same, paste=paste)
    loaders = [
        make_loader(
            stream,
            batch // world_size,
            start_step=start_step,
            num_steps=config.train.steps - start_step,
            rank=rank,
            world_size=world_size,
            num_workers=config.train.workers,
            pin_memory=pinned,
            donors=donors if view == 2 else None,
        )
        for view, (stream, batch) in enumerate(streams)
    ]
    seeds = _seeds(config.train.seed)
    shown = slice(rank * config.train.batch_unlabelled // world_size, None)

    def batches() -> Generator[Batch, None, None]:
        with torch.random.fork_rng(devices=[]):  # each new iterator draws a seed, which a resumed run must not notice
            iterators = [iter(loader) for loader in loaders]
        with ended(*iterators):
            for step, items in enumerate(in_one_line(zip(*iterators, strict=True)), start=start_step):
                labelled = _to_view(items[0], config, device, with_label=True)
                sources = _to_view(items[-1], config, device, with_label=True) if paste else None
                rest = items[1:-1] if paste else items[1:]
                parts = [part for item in rest for part in (_crops(item) if "offset" in item else [item])]
                unlabelled = tuple(_to_view(part, config, device, with_label=False) for part in parts)
                masks = _draw_masks(config, np.random.default_rng([seeds.mask, step]), num_unlabelled_views)
                masks = [mask[shown][: len(unlabelled[0].image)] for mask in masks]
                if pinned:  # a copy from pageable memory would wait for the device
                    masks = [mask.pin_memory() for mask in masks]
                masks = [mask.to(device, non_blocking=True) for mask in masks]
                (seed,) = np.random.SeedSequence([seeds.method, step]).generate_state(1, np.uint64) >> np.uint64(1)
                batch = Batch(labelled, unlabelled, paste=sources, seed=int(seed), replaced=_replaced(streams, items))
                if isinstance(method, WeakStrongConfig):
                    yield batch._replace(strong_masks=tuple(masks))
                else:
                    yield batch._replace(mix_mask=masks[0] if masks else None)

    return batches()


def first_images(
    config: RunConfig, datasets: TrainDatasets, num_unlabelled_views: int, fabric: Fabric
) -> Iterator[torch.Tensor]:
    """Read the images of the first ``eval.norm_batches`` batches of a process, labelled and unlabelled ones apart."""
    for batch in read_batches(
        replace(config, train=replace(config.train, steps=config.eval.norm_batches)),
        datasets,
        num_unlabelled_views=num_unlabelled_views,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    ):
        for view in (batch.labelled, *batch.unlabelled):
            yield view.image


def _replaced(streams: Sequence[tuple[SampleStream, int]], items: Sequence[dict[str, torch.Tensor]]) -> int | None:
    """Count images of a step that take the place of damaged ones, and tell of these; None where none may be."""
    counts = []
    for (stream, _), item in zip(streams, items, strict=True):
        if isinstance(stream.dataset, SkipDamaged):
            indices = item["index"][item["replaced"]].tolist()
            for index in indices:
                stream.dataset.tell(index)
            counts.append(len(indices))
    return sum(counts) if counts else None


def _draw_masks(config: RunConfig, rng: np.random.Generator, num_unlabelled_views: int) -> list[torch.Tensor]:
    """Draw the CutMix masks (N, H, W) of all processes' unlabelled images: none, one, or one for each strong view."""
    method, num, size = config.method, config.train.batch_unlabelled, config.augment.crop
    if isinstance(method, WeakStrongConfig):
        probability, area, aspect = method.mix_probability, method.mix_area, method.mix_aspect
        return [
            fitting_boxes(num, size, rng, probability=probability, area_range=area, aspect_range=aspect)
            for _ in range(method.num_strong_views)
        ]
    if num_unlabelled_views == 2 and isinstance(method, CutMixPart):
        return [cutmix_masks(num, size, rng, num_boxes=method.mix_boxes, area_range=method.mix_area)]
    return []


def _streams(
    config: RunConfig, datasets: TrainDatasets, num_unlabelled_views: int, *, same: bool, paste: bool
) -> list[tuple[SampleStream, int]]:
    """The labelled stream, the unlabelled ones and that of images to paste from, each with its images a step.

    With ``same`` both unlabelled streams have one order; CutMix of CPS repeats the order of the first epoch.
    """
    augment, seeds, method = config.augment, _seeds(config.train.seed), config.method
    augmentation = _augmentation(config)
    strong = _colours(method, num_views=method.num_strong_views) if isinstance(method, WeakStrongConfig) else None
    x_seeds: dict[str, Any] = {"order_seed": seeds.order_x, "augment_seed": seeds.augment_x}
    if augment.jitter is not None:
        x_seeds["colours"] = StrongAugmentation(augment.jitter, 1.0, 0.0, 0.0)
    if num_unlabelled_views == 0:
        return [(SampleStream(datasets.labelled, augmentation, **x_seeds), config.train.batch_labelled)]
    assert datasets.unlabelled is not None
    length = max(len(datasets.labelled), len(datasets.unlabelled))
    x = SampleStream(datasets.labelled, augmentation, epoch_length=length, **x_seeds)
    if isinstance(method, PairedCropsPart):
        whole = _long_side(config, method.pair_scales, bicubic=True)
        pairs = SampleStream(
            datasets.unlabelled,
            PairedCrops(whole, _colours(method, blur_first=True), PAIR_STRIDE, method.pair_overlap),
            epoch_length=length,
            order_seed=seeds.order_u + 1,
            augment_seed=seeds.augment_u,
        )
        return [(x, config.train.batch_labelled), (pairs, config.train.batch_unlabelled)]
    unlabelled = [
        SampleStream(
            datasets.unlabelled,
            augmentation,
            epoch_length=length,
            order_seed=seeds.order_u if same else seeds.order_u + 1 + view,
            augment_seed=(seeds.augment_u, seeds.augment_partner)[view],
            reshuffle=not (same and isinstance(method, PairedCutMixPart)),
            strong=strong,
        )
        for view in range(num_unlabelled_views)
    ]
    streams = [(x, config.train.batch_labelled), *((u, config.train.batch_unlabelled) for u in unlabelled)]
    if paste:
        assert isinstance(method, PastePart)
        source = SampleStream(
            datasets.labelled,
            replace(augmentation, pad_label=config.data.ignore_index, scale_range=method.paste_scales),
            order_seed=seeds.order_paste,
            augment_seed=seeds.augment_paste,
            blank=1 - method.paste_probability,
        )
        streams.append((source, config.train.batch_labelled))
    return streams


def _augmentation(config: RunConfig) -> Augmentation | LongSideAugmentation:
    """Make the augmentation of all images but pairs of crops."""
    augment = config.augment
    if augment.geometry == "cps":
        return Augmentation(
            augment.crop, augment.scales, augment.flip, pad_label=_pad_label(config), scale_range=augment.scale_range
        )
    assert augment.scale_range is not None
    return _long_side(config, augment.scale_range, bicubic=augment.geometry == "cac")


def _long_side(config: RunConfig, scale_range: tuple[float, float], *, bicubic: bool) -> LongSideAugmentation:
    """Make the augmentation of CAC, bicubic with padding in the mean colour, or of UniMatch."""
    augment = config.augment
    red, green, blue = (round(255 * value) for value in normalization(config).mean) if bicubic else (0, 0, 0)
    return LongSideAugmentation(
        augment.crop,
        scale_range,
        augment.flip,
        _pad_label(config),
        pad_color=(red, green, blue),
        base_size=augment.base_size,
        bicubic=bicubic,
    )


def _pad_label(config: RunConfig) -> int:
    return config.data.ignore_index if config.augment.pad_label == "ignore" else 0


def _colours(method: ColourPart, **options: Any) -> StrongAugmentation:
    """Make the random colours of unlabelled crops."""
    return StrongAugmentation(
        method.jitter,
        method.jitter_probability,
        method.grey_probability,
        method.blur_probability,
        method.blur_sigma,
        **options,
    )


class _Seeds(NamedTuple):
    """Independent seeds of all that is random in the batches."""

    order_x: int
    order_u: int
    augment_x: int
    augment_u: int
    augment_partner: int
    mask: int
    order_paste: int
    augment_paste: int
    method: int


def _seeds(seed: int) -> _Seeds:
    return _Seeds(*map(int, np.random.SeedSequence(seed).generate_state(len(_Seeds._fields))))


def _to_view(item: dict[str, torch.Tensor], config: RunConfig, device: torch.device, *, with_label: bool) -> View:
    """A loader's batch on the device."""
    image, valid = item["image"].to(device, non_blocking=True), item["valid"].to(device, non_blocking=True)
    padding = valid if config.augment.geometry == "cps" else None  # whose colour is part of the image in the others

    def normalized(image: torch.Tensor) -> torch.Tensor:
        if config.train.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return normalize(image, padding, *normalization(config))

    label = item["label"].to(device, non_blocking=True).long() if with_label else None
    index, wanted = (item[name].to(device, non_blocking=True) if name in item else None for name in ("index", "wanted"))
    strong: tuple[torch.Tensor, ...] = ()
    if "strong" in item:
        strong = tuple(map(normalized, item["strong"].to(device, non_blocking=True).unbind(1)))
    place = None
    if "offset" in item:
        place = Place(*(item[name].to(device, non_blocking=True) for name in ("offset", "flipped")))
    return View(normalized(image), valid, label, index, wanted, strong, place)


def _crops(item: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Part a loader's batch of pairs into the batches of the first and of the second crops."""
    for crop in range(2):
        parts = {name: item[name][:, crop] for name in ("image", "valid", "offset", "flipped")}
        yield parts | {"index": item["index"]}
