import dataclasses

import pytest
import torch
from trainer_runs import tiny_run

from fpl_fast.trainer.build import build_method_networks, make_fabric
from fpl_fast.trainer.inputs import build_train_datasets, read_batches


@pytest.mark.parametrize("head", ["cps", "ael"])
@pytest.mark.parametrize("method", [{"name": "supervised"}, {"loss": "ce", "cutmix": False}, {"loss": "fpl"}])
def test_every_weight_gets_a_gradient(method, head):
    """DDP waits for each of them, and is not asked to look for those it would wait for in vain."""
    config = tiny_run(**method)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, head=head))
    built = build_method_networks(config, 11, make_fabric(config.train)).train()
    views = built.num_unlabelled_views
    datasets = build_train_datasets(config.data, unlabelled=views > 0)
    batch = next(read_batches(config, datasets, num_unlabelled_views=views, device=torch.device("cpu")))
    sum(built(batch, 0.0).terms.values()).backward()
    assert [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None] == []
