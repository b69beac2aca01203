"""UniMatch V2 against spec/methods.md section 3.9, pass by pass, and through a transformer."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from method_cases import CLOSE, assert_same_step, make_batch_for, make_method, upsample
from PIL import Image
from test_unimatch import literal_pixels
from torch.nn import functional as F
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.build import check_batches
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config import ModelConfig, OptimConfig
from fpl_fast.trainer.dry_run import dry_run
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.unimatch_v2 import UniMatchV2Config, complementary_dropout, flipped
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


def make(**changes):
    return make_method(name="unimatch_v2", engine="eager", **changes).train()


def moved_apart(method):
    """A teacher that differs from its student."""
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return method


def literal(method, batch):
    """The terms of a step, image by image."""
    config, x, (u,) = method.config, batch.labelled, batch.unlabelled
    num = len(u.image)
    method.teacher.eval()
    with torch.no_grad():
        t = upsample(method.teacher(u.image))
    method.teacher.train()
    partner = []
    for i in range(num):  # the place that mirrors i in its group
        start = i // config.flip_group * config.flip_group
        partner.append(start + min(start + config.flip_group, num) - 1 - i)

    terms = {"loss_sup": F.cross_entropy(upsample(method.student(x.image)), x.label, ignore_index=255) / 2}
    images, targets, valids = [], [], []
    for strong, mask in zip(u.strong, batch.strong_masks, strict=True):
        m = mask.unsqueeze(1).float()
        images.append(torch.stack([strong[i] * (1 - m[i]) + strong[partner[i]] * m[i] for i in range(num)]))
        targets.append(torch.stack([t[i] * (1 - m[i]) + t[partner[i]] * m[i] for i in range(num)]))
        valids.append(torch.stack([torch.where(mask[i], u.valid[partner[i]], u.valid[i]) for i in range(num)]))

    generator = torch.Generator().manual_seed(batch.seed)
    order = torch.rand(num, generator=generator).argsort()
    untouched = order[: int(num * (1 - config.dropout_share))]
    factors = []
    for _ in range(2):  # low and high features
        first = 2.0 * (torch.rand(num, 8, 1, 1, generator=generator) < 0.5)
        first[untouched] = 1
        factors.append(torch.cat([first, 2 - first]))
    low = method.student.layers[:3](torch.cat(images))
    logits = method.student.layers[6](method.student.layers[3:6](low * factors[0]) * factors[1])
    for name, *parts in zip(("loss_unsup", "loss_unsup_2"), upsample(logits).chunk(2), targets, valids, strict=True):
        terms[name] = config.unsup_weight / 4 * literal_pixels(*parts, config)
    return terms


@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize(("loss", "gate"), [("ce", 0.0), ("ce", 0.6), ("fpl", 0.0), ("fpl", 0.5)])
@pytest.mark.parametrize("flip_group", [1, 2, 3])
def test_equals_the_literal_version(loss, gate, ignore_padding, flip_group):
    method = moved_apart(
        make(loss=loss, confidence_threshold=gate, ignore_padding=ignore_padding, flip_group=flip_group,
             weighting="concave" if loss == "fpl" else "none", unsup_weight=1.5)
    )  # fmt: skip
    theirs, batch = copy.deepcopy(method), make_batch_for(method, seed=3)
    losses = method(batch, 0.0)
    expected = literal(theirs, batch)
    assert_same_step(method, losses, theirs, expected)
    for ours, other in zip(method.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)  # the teacher's passes move no statistics
    selected = losses.telemetry["selected"]
    assert selected == 1 if gate == 0 else 0 < selected < 1
    assert (losses.telemetry["mean_positives"] > 1) == (loss == "fpl")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_every_term_reaches_every_weight_of_the_student_and_none_of_the_teacher(loss, autocast):
    method = make(loss=loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = method(make_batch_for(method), 0.0)
    for name, term in losses.terms.items():
        gradients = torch.autograd.grad(term, list(method.student.parameters()), retain_graph=True)
        assert all(g.isfinite().all() and g.count_nonzero() > 0 for g in gradients), name
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert not any(value.requires_grad for value in losses.telemetry.values())
    assert method.teacher.training
    optimised = {id(p) for group in method.param_groups(OptimConfig()) for p in group["params"]}
    assert optimised == {id(p) for p in method.student.parameters()}


def test_a_gate_that_nothing_passes_and_images_without_a_valid_pixel_are_zero():
    closed, method = make(loss="ce", confidence_threshold=1.0), make(loss="fpl", weighting="concave")
    batch = make_batch_for(method)
    (u,) = batch.unlabelled
    nothing = batch._replace(unlabelled=(u._replace(valid=torch.zeros_like(u.valid)),))
    for losses in (closed(batch, 0.0), method(nothing, 0.0)):
        unsup = losses.terms["loss_unsup"] + losses.terms["loss_unsup_2"]
        assert unsup == 0
        unsup.backward()
    for one in (closed, method):
        assert all(p.grad is None or (p.grad == 0).all() for p in one.parameters())
    assert method.denominators(nothing)["loss_unsup"] == method.denominators(nothing)["loss_unsup_2"] == 0


def test_pixels_are_counted_term_by_term():
    method = make(loss="ce", flip_group=3)
    batch = make_batch_for(method)
    (u,) = batch.unlabelled
    u = u._replace(valid=torch.rand(u.valid.shape) < 0.7)
    batch = batch._replace(unlabelled=(u,))
    mixed = [torch.where(mask, u.valid.flip(0), u.valid).sum() for mask in batch.strong_masks]
    assert method.denominators(batch) == {
        "loss_sup": (batch.labelled.label != 255).sum(),
        "loss_unsup": mixed[0],
        "loss_unsup_2": mixed[1],
    }
    assert method.denominators(batch).keys() == method(batch, 0.0).terms.keys()
    assert make(ignore_padding=False).denominators(batch).keys() == {"loss_sup"}


def test_the_teacher_averages_parameters_and_statistics_and_is_evaluated():
    method = make()
    assert method.eval_network is method.teacher
    assert method.config.ema_decay == 0.996
    moved_apart(method)
    method.student(torch.randn(4, 3, 14, 18))
    for step, decay in ((0, 0.0), (1, 0.5), (9, 0.9), (249, 0.996), (1000, 0.996)):
        moved_apart(method)
        before = copy.deepcopy(method.teacher.state_dict())
        method.after_step(step)
        for name, theirs in method.student.state_dict().items():
            if theirs.is_floating_point():
                expected = decay * before[name] + (1 - decay) * theirs
                torch.testing.assert_close(method.teacher.state_dict()[name], expected)


@pytest.mark.parametrize(("group", "order"), [(1, [0, 1, 2, 3, 4]), (2, [1, 0, 3, 2, 4]), (5, [4, 3, 2, 1, 0])])
def test_flipped(group, order):
    x = torch.randn(5, 2, 3)
    assert torch.equal(flipped(x, group), x[order])


def test_complementary_channels():
    chosen = StepRandom(0, torch.device("cpu")).chosen(9, 0.5)
    assert chosen.sum() == 5  # int(9 / 2) are left alone
    first, second = complementary_dropout(StepRandom(1, torch.device("cpu")), 400, chosen).flatten(1).chunk(2)
    assert torch.equal(first + second, torch.full((9, 400), 2.0))
    assert (first[~chosen] == 1).all()
    assert set(first[chosen].unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(*first[chosen][:2])
    assert first[chosen].mean().item() == pytest.approx(1, abs=0.1)  # a binomial of 2000, four standard deviations
    assert all(StepRandom(0, torch.device("cpu")).chosen(4, share).sum() == 4 * share for share in (0, 0.25, 1))


def test_images_left_alone_change_from_step_to_step():
    drawn = torch.stack([StepRandom(seed, torch.device("cpu")).chosen(4, 0.5) for seed in range(40)])
    assert (drawn.sum(1) == 2).all()
    assert drawn.any(0).all()
    assert not drawn.all(0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strong_weight": -1.0}, "method.strong_weight must be >= 0, got -1.0"),
        ({"dropout_share": 1.5}, r"method.dropout_share must be in \[0, 1\], got 1.5"),
        ({"flip_group": 0}, "method.flip_group must be >= 1 image, got 0"),
        ({"ema_decay": 2.0}, r"method.ema_decay must be in \[0, 1\], got 2.0"),
        ({"confidence_threshold": 0.95}, "method.confidence_threshold must be below method.threshold 0.9 with"),
    ],
)
def test_broken_rules(changes, message):
    with pytest.raises(ValueError, match=message):
        UniMatchV2Config(**changes)


def test_images_flipped_together_come_together():
    config = transformer_run(flip_group=4)
    check_batches(config, unlabelled=True)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_unlabelled=6))
    with pytest.raises(ValueError, match=r"flip_group must be a divisor of the 6 unlabelled images of a .*, got 4"):
        check_batches(config, unlabelled=True)


def transformer_run(**changes):
    """Six steps of a tiny transformer with patches of 16 x 16."""
    config = tiny_run(name="unimatch_v2", loss="fpl", engine="eager", **changes)
    return dataclasses.replace(
        config,
        model=ModelConfig(backbone="test_vit", head="dpt", output_stride=None),
        optim=OptimConfig(algorithm="adamw", lr=1e-3, weight_decay=0.01, decay_all=True, head_lr_scale=4.0),
        train=dataclasses.replace(config.train, batch_unlabelled=4),
    )


def test_a_transformer_trains_and_predicts(tmp_path):
    folder, monitor = RunFolder(tmp_path / "run"), Quiet()
    train(transformer_run(), folder, monitor)
    logged = [scalars for _, split, scalars in monitor.records if split == "train"]
    assert all(scalars[name] > 0 for scalars in logged for name in ("loss_sup", "loss_unsup", "loss_unsup_2"))
    saved = load_checkpoint(folder.last)["method"]
    trained = load_trained(folder, checkpoint="last").network.state_dict()
    assert all(torch.equal(value, saved[f"networks.1.{name}"]) for name, value in trained.items())
    assert any(not torch.equal(value, saved[f"networks.0.{name}"]) for name, value in trained.items())

    pixels = np.random.default_rng(0).integers(256, size=(37, 51, 3), dtype=np.uint8)  # no multiples of 16
    Image.fromarray(pixels).save(tmp_path / "a.png")
    arguments = ["--checkpoint", "last", "--out", str(tmp_path / "out")]
    assert main(["predict", str(folder.path), str(tmp_path / "a.png"), *arguments]) == 0
    (written,) = (tmp_path / "out").glob("**/a.png")
    assert np.array(Image.open(written)).shape[:2] == (37, 51)
    assert 0 <= json.loads(folder.evaluation.read_text())["miou"] <= 1


def test_a_dry_run_counts_what_a_transformer_keeps():
    config = transformer_run()
    found = dry_run(config)
    assert found.trained == found.parameters > 306_240
    assert found.checkpoint_bytes == 4 * 4 * found.parameters  # student, teacher and two averages of the gradient
    assert found.predicted.state == 4 * 5 * found.parameters  # and the gradient


def test_a_crop_between_two_patches_is_one_line(tmp_path):
    config = transformer_run()
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, crop=(32, 90)))
    message = (
        r"^augment\.crop must be multiples of 16, the size of the patches of test_vit, got \(32, 90\): the nearest is "
        r"--augment\.crop \[32,96\]$"
    )
    with pytest.raises(ValueError, match=message):
        train(config, RunFolder(tmp_path / "run"), Quiet())
    with pytest.raises(ValueError, match=message):
        dry_run(config)
    assert not (tmp_path / "run").exists()
