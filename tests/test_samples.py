"""The pictures of a run: the map of K follows the method's thresholds."""

import torch
from lightning.fabric import Fabric
from torch import nn
from trainer_runs import tiny_run

from fpl_fast import adaptive_threshold, fuzzy_positive_assignment
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.validation import save_samples
from fpl_fast.trainer.models.normalization import normalization
from fpl_fast.trainer.run.folder import RunFolder

CANDIDATES = (0.4, 0.6, 0.8)


class Pictures(list):
    """A data set of given samples."""

    palette = ((0, 0, 0),) * 5

    def name(self, index):
        return f"scene {index}"


def test_the_map_of_k_follows_the_candidates(tmp_path):
    network = nn.Conv2d(3, 5, 3, padding=1)
    images = torch.randint(0, 256, (2, 3, 12, 17), dtype=torch.uint8)
    dataset = Pictures(Sample(image, torch.zeros(12, 17, dtype=torch.uint8)) for image in images)
    maps = []
    for candidates in (CANDIDATES, ()):
        config = tiny_run(threshold_candidates=candidates, threshold_window=3, max_positives=4)
        arrays = save_samples(RunFolder(tmp_path), network, dataset, config, Fabric(accelerator="cpu", devices=1))
        assert arrays["names"].tolist() == ["scene 0", "scene 1"]
        maps.append(torch.stack([torch.from_numpy(arrays[f"num_positives_{i}"]) for i in range(2)]))
    with torch.no_grad():
        logits = torch.cat([network(normalize(image[None], None, *normalization(config))) for image in images])
    threshold = adaptive_threshold(logits, CANDIDATES, 3, max_positives=4)
    for found, expected in zip(maps, (threshold, 0.9), strict=True):
        k, _ = fuzzy_positive_assignment(logits, threshold=expected, max_positives=4)
        assert torch.equal(found, k.to(torch.uint8))
    assert not torch.equal(*maps)
