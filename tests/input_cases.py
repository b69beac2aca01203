"""Batches of a run, shared by the tests of what is read."""

import dataclasses

import torch
from torch.utils._pytree import tree_leaves

from fpl_fast.trainer.data.datasets import build_train_datasets
from fpl_fast.trainer.data.inputs import read_batches

CPU = torch.device("cpu")


def batches(config, num_views=2, **where):
    datasets = build_train_datasets(config.data, unlabelled=num_views > 0)
    return list(read_batches(config, datasets, num_unlabelled_views=num_views, device=CPU, **where))


def changed(config, **sections):
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    )


def assert_equal(ours, theirs):
    """Batches, tensor by tensor."""
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert torch.equal(a, b)


def flat(batch):
    """All tensors of a batch but the images to paste from."""
    return [leaf for leaf in tree_leaves(batch._replace(paste=None)) if isinstance(leaf, torch.Tensor)]
