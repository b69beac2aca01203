import dataclasses
import gc

import pytest
import torch
from trainer_runs import EVERY_METHOD, tiny_run

from fpl_fast.trainer import dry_run as dry_run_module
from fpl_fast.trainer.build import make_fabric
from fpl_fast.trainer.config import VocData
from fpl_fast.trainer.data.datasets import class_table
from fpl_fast.trainer.dry_run import (
    _STEPS,
    _saved_bytes,
    dry_run,
    predict_memory,
    prepare_run,
)
from fpl_fast.trainer.random_batches import RandomImages, prepared_method, random_batches

METHODS = [*EVERY_METHOD[:-1], {**EVERY_METHOD[-1], "flip_group": 5}]


def made(config):
    """The method of a run, in train mode."""
    fabric = make_fabric(config.train)
    return prepared_method(config, _STEPS).train(), fabric


TRANSFORMER = {"backbone": "test_vit", "head": "dpt", "output_stride": None}


@pytest.mark.parametrize(("method", "model"), [*((method, {}) for method in METHODS), (METHODS[-1], TRANSFORMER)])
def test_prediction_is_what_a_step_of_the_real_size_keeps(method, model):
    config = tiny_run(**method)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        augment=dataclasses.replace(config.augment, crop=(192, 160)),
        train=dataclasses.replace(config.train, batch_labelled=3, batch_unlabelled=5),
    )
    networks, fabric = made(config)
    predicted = predict_memory(config, networks, fabric)
    kept = _saved_bytes(networks, next(random_batches(config, networks, fabric, _STEPS)), fabric)
    assert predicted.activations == pytest.approx(kept, rel=0.05)  # an estimate
    tensors = [*networks.parameters(), *networks.buffers()]
    trained = [p for p in networks.parameters() if p.requires_grad]
    later = [p for phase in networks.later_phases() for p in phase.module.parameters()]
    assert bool(later) == (method.get("name") == "gct")
    state = sum(t.nbytes for t in tensors) + 2 * sum(p.nbytes for p in trained)
    assert predicted.state == state + 3 * sum(p.nbytes for p in later)  # gradient and two moments
    assert predicted.total == predicted.state + predicted.activations


def on_devices(config, num_devices):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, devices=num_devices))


def test_a_prepared_run_is_predicted_like_its_method():
    config = dataclasses.replace(tiny_run(), data=VocData(root="/nonexistent"))
    model = dataclasses.replace(config.model, weights_file="/nonexistent.pth")
    prepared = prepare_run(dataclasses.replace(config, model=model))
    assert prepared.method.training
    assert prepared.device == "CPU"
    assert prepared.fits
    assert prepared.predicted == predict_memory(config, *made(config))


def test_one_device_is_predicted_for_all(monkeypatch):
    """Images are shared out among devices, without starting a process or asking a launcher."""
    config = tiny_run()
    config = dataclasses.replace(
        config,
        augment=dataclasses.replace(config.augment, crop=(256, 256)),
        train=dataclasses.replace(config.train, batch_labelled=8, batch_unlabelled=8),
    )
    one, four = (prepare_run(on_devices(config, number), alone=True) for number in (1, 4))
    assert four.fabric.world_size == 1
    assert four.predicted.state == one.predicted.state
    assert 0.2 * one.predicted.activations < four.predicted.activations < 0.3 * one.predicted.activations
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "tables"}.items():
        monkeypatch.setenv(name, value)
    launched = prepare_run(config, alone=True)
    assert launched.fabric.world_size == 1
    assert launched.predicted == four.predicted


@pytest.mark.parametrize("batch", [2, 8])
def test_banks_for_fewer_images_than_are_probed(batch):
    """A probe has labelled images of its own number; unlabelled ones are those that the banks were made for."""
    config = tiny_run(name="ael", engine="eager")
    config = dataclasses.replace(
        config,
        augment=dataclasses.replace(config.augment, crop=(96, 96)),
        train=dataclasses.replace(config.train, batch_labelled=batch, batch_unlabelled=2),
    )
    networks, fabric = made(config)
    predicted = predict_memory(config, networks, fabric)
    kept = _saved_bytes(networks, next(random_batches(config, networks, fabric, _STEPS)), fabric)
    assert predicted.activations == pytest.approx(kept, rel=0.05)  # an estimate


def test_half_precision_keeps_less():
    config = tiny_run()
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, crop=(512, 512)))
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16-mixed"))
    predictions = [predict_memory(one, *made(one)) for one in (config, half)]
    assert predictions[0].state == predictions[1].state
    assert predictions[1].activations < 0.8 * predictions[0].activations


def test_what_is_found_without_data():
    config = dataclasses.replace(tiny_run(engine="eager"), data=VocData(root="/nonexistent"))
    model = dataclasses.replace(config.model, weights_file="/nonexistent.pth")
    found = dry_run(dataclasses.replace(config, model=model))
    networks, _ = made(config)
    assert found.parameters == sum(p.numel() for p in networks.networks[0].parameters())
    assert found.trained == 2 * found.parameters
    assert (found.device, found.num_unlabelled_views, found.is_first) == ("CPU", 2, True)
    assert found.step_s > 0
    assert found.first_step_s > 0
    assert found.peak_memory_mb > 100


def test_what_later_phases_train_is_counted():
    """Weights and two moments of the flaw detector, besides two networks with a momentum each."""
    config = tiny_run(name="gct", engine="eager")
    found, (networks, _) = dry_run(config), made(config)
    detector = sum(p.numel() for p in networks.detector.parameters())
    assert found.trained == 2 * found.parameters + detector
    buffers = sum(b.nbytes for b in networks.buffers())
    assert found.checkpoint_bytes == 4 * (4 * found.parameters + 3 * detector) + buffers


def test_a_run_that_cannot_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(dry_run_module, "available_memory_bytes", lambda: 10**5)
    monkeypatch.setattr(dry_run_module, "train_step", None)
    with pytest.raises(ValueError, match=r"a step fits into 0\.0 GB, got about 0\.0 GB"):
        dry_run(tiny_run())
    monkeypatch.setattr(dry_run_module, "available_memory_bytes", lambda: None)  # where the system does not tell
    with pytest.raises(TypeError):
        dry_run(tiny_run())


def test_random_images():
    images = RandomImages(3, (20, 30), class_table(VocData()), 255)
    assert len(images) == 3
    sample = images[1]
    assert (sample.image.shape, sample.label.shape) == ((3, 20, 30), (20, 30))
    assert sample.label.max() == 20
    assert torch.equal(sample.image, images[1].image)
    assert not torch.equal(sample.image, images[2].image)


def test_nothing_of_a_dry_run_is_kept():
    """Autograd's graphs hold tensors where Python's garbage collector sees no owner."""

    def held():
        gc.collect()
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    dry_run(tiny_run())  # what is made once and kept
    before = held()
    dry_run(tiny_run())
    assert held() == before
