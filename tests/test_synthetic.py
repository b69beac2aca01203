import dataclasses
import math
import random
from functools import partial

import numpy as np
import pytest
import torch

from fpl_fast.engines.choice import COMPILED_MIN_LOGITS
from fpl_fast.trainer.config import SyntheticData
from fpl_fast.trainer.data import datasets, scenery, synthetic
from fpl_fast.trainer.data.datasets import build_train_datasets, build_val_dataset, class_table
from fpl_fast.trainer.data.synthetic import SyntheticScenes
from fpl_fast.trainer.study.grid import read_study


def same(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label)


def test_seed_and_index_decide_everything():
    scenes = SyntheticScenes(9, size=(48, 64), seed=5)
    again = SyntheticScenes(9, size=(48, 64), seed=5)
    backwards = [again[i] for i in reversed(range(9))]  # neither order nor global generators matter
    np.random.seed(1)
    assert all(same(scenes[i], backwards[8 - i]) for i in range(9))
    assert not same(scenes[0], scenes[1])
    assert not same(scenes[0], SyntheticScenes(9, size=(48, 64), seed=6)[0])


def test_first_shifts_the_index():
    assert same(SyntheticScenes(10, size=(48, 64))[7], SyntheticScenes(3, size=(48, 64), first=5)[2])


def test_unlabelled_scenes_have_the_same_pictures():
    with_label, without = SyntheticScenes(2)[1], SyntheticScenes(2, labelled=False)[1]
    assert without.label is None
    assert torch.equal(with_label.image, without.image)


@pytest.mark.parametrize("size", [(32, 32), (45, 131), (160, 90)])  # smallest; odd and wide; upright
def test_shapes_and_values(size):
    scenes = SyntheticScenes(4, size=size)
    for sample in (scenes[i] for i in range(4)):
        assert sample.image.shape == (3, *size)
        assert sample.label.shape == size
        assert sample.image.dtype == sample.label.dtype == torch.uint8
        assert set(sample.label.unique().tolist()) <= {*range(scenes.num_classes), scenes.ignore_index}
        assert sample.image.float().std() > 5  # a picture, not a blank


def test_shares_of_the_classes():
    """Three classes fill most of an image; the far view has a long tail, the near one classes large enough to learn."""
    least, small = {}, {"far": ("sign", "person", "cyclist", "pole"), "near": ("person", "fence")}
    for view, names in small.items():
        scenes = SyntheticScenes(60, view=view)
        counts = sum(torch.bincount(scenes[i].label.flatten().long(), minlength=256) for i in range(60))
        share = dict(zip(scenes.class_names, (counts / counts.sum()).tolist(), strict=False))
        assert len(share) == len(scenes.palette) == scenes.num_classes == {"far": 11, "near": 8}[view]
        assert share["road"] + share["sky"] + share["building"] > 0.6
        assert max(share[name] for name in names) < {"far": 0.02, "near": 0.05}[view]
        assert 0.003 < counts[255] / counts.sum() < 0.1
        least[view] = min(share.values())
    assert least["near"] > 5e-3 > least["far"] > 5e-4


def test_every_kind_that_is_drawn_has_its_class():
    """A street of one kind alone: in the near view riders are people, posts and signs void."""
    kinds = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "person", "cyclist")
    near = {name: name for name in kinds} | {"pole": None, "sign": None, "cyclist": "person"}
    for view, expected in (("far", dict(zip(kinds, kinds, strict=True))), ("near", near)):
        for name, wanted in expected.items():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(synthetic, "_draw", partial(_one_kind, getattr(scenery, name.upper())))
                scenes = SyntheticScenes(1, size=(32, 32), view=view)
                label = scenes[0].label
            assert label.unique().tolist() == [255 if wanted is None else scenes.class_names.index(wanted)], name


def _one_kind(kind, size, view, rng):
    street = scenery.Street(size, random.Random(0))
    street.label.paste(kind, (0, 0, *street.label.size))
    return street


def test_things_keep_to_their_places():
    """Sky is above road in every column that has both, and colours alone do not tell the classes."""
    scenes = SyntheticScenes(20)
    at = {name: scenes.class_names.index(name) for name in ("sky", "road")}
    sky, road = [], []
    for sample in (scenes[i] for i in range(20)):
        rows = torch.arange(sample.label.shape[0])[:, None].expand_as(sample.label)
        assert rows[sample.label == at["sky"]].max() < rows[sample.label == at["road"]].max()
        sky.append(rows[sample.label == at["sky"]].float().mean())
        road.append(rows[sample.label == at["road"]].float().mean())
    assert max(sky) < min(road)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        SyntheticScenes(0)
    with pytest.raises(ValueError, match=r"size must be at least 32 x 32, got \(16, 64\)"):
        SyntheticScenes(1, size=(16, 64))
    with pytest.raises(ValueError, match="view must be one of far, near, got 'close'"):
        SyntheticScenes(1, view="close")
    with pytest.raises(ValueError, match="seed and first must be at least 0, got 0 and -1"):
        SyntheticScenes(1, first=-1)
    with pytest.raises(IndexError, match=r"index must be in \[0, 3\), got 3"):
        SyntheticScenes(3)[3]


def test_what_a_process_has_drawn_it_keeps(monkeypatch):
    """The scenes of one run after another; by their seed, size and number, with and without labels."""
    drawn, draw = [], synthetic._draw
    monkeypatch.setattr(synthetic, "_draw", lambda size, *rest: drawn.append(size) or draw(size, *rest))
    datasets._drawn.cache_clear()
    data = SyntheticData(num_labelled=2, num_unlabelled=3, num_val=4, size=(32, 48), seed=7)

    def samples(data):
        sets = (*build_train_datasets(data, unlabelled=True), build_val_dataset(data))
        return [part[i] for part in sets for i in range(len(part))]

    first = samples(data)
    assert len(drawn) == 9
    assert all(torch.equal(a.image, b.image) for a, b in zip(samples(data), first, strict=True)) and len(drawn) == 9
    fresh = SyntheticScenes(6, size=(32, 48), seed=7)
    assert same(first[0], fresh[4]) and same(first[5], fresh[0]) and first[2].label is None
    for other in ({"seed": 8}, {"size": (48, 32)}, {"view": "near"}):
        assert not torch.equal(samples(dataclasses.replace(data, **other))[0].image, first[0].image)
    with pytest.raises(IndexError):
        build_val_dataset(data)[4]  # drawn, as the first labelled scene


def test_the_quickstart_compiles_no_loss():
    for trial in read_study("quickstart").trials:
        config = trial.config
        num_classes = len(class_table(config.data).names)
        batch = max(config.train.batch_labelled, config.train.batch_unlabelled)
        assert batch * num_classes * math.prod(config.augment.crop) < COMPILED_MIN_LOGITS
