import copy
import sys

import pytest
import torch
from lightning.fabric import Fabric
from lightning_utilities.core.apply_func import apply_to_collection
from method_cases import complete
from torch import nn
from torch.profiler import ProfilerActivity, profile
from trainer_runs import tiny_run

from fpl_fast.engines import eager_context
from fpl_fast.ops import gradient
from fpl_fast.trainer import methods
from fpl_fast.trainer.methods import Batch, TrainingSet, View, build_method
from fpl_fast.trainer.optim import build_optimizer
from fpl_fast.trainer.step import set_up_phases, train_step

SIZE, NUM, C, NUM_UNLABELLED = (32, 32), 2, 5, 7
METHODS = [
    {"name": "supervised"},
    {"name": "supervised", "sup_loss": "ohem", "ohem_min_kept": 50},
    {"loss": "ce", "cutmix": False},
    {"loss": "ce", "ignore_padding": True},
    {"loss": "fpl", "cutmix": False, "weighting": "linear"},
    {"loss": "fpl", "weighting": "concave", "max_positives": None},
    {"loss": "fpl", "weighting": "convex", "balance": False, "ignore_padding": True},
    {"loss": "fpl", "sup_loss": "ohem", "ohem_min_kept": 50},
    {"loss": "fpl", "threshold_candidates": (0.7, 0.9), "ignore_padding": True},
    {"name": "mean_teacher", "loss": "mse"},
    {"name": "mean_teacher", "loss": "fpl", "ignore_padding": True},
    {"name": "cutmix_seg", "loss": "mse", "confidence_threshold": 0.3},
    {"name": "cutmix_seg", "loss": "fpl", "confidence_threshold": 0.3, "ignore_padding": True},
    {"name": "cct", "loss": "mse", "sup_loss": "annealed", "adversarial_decoders": 1},
    {"name": "cct", "loss": "fpl", "confidence_threshold": 0.3, "ignore_padding": True},
    {"name": "gct", "loss": "mse"},
    {"name": "gct", "loss": "fpl", "ignore_padding": True},
    {"name": "cac", "confidence_threshold": 0.1},
    {"name": "u2pl", "loss": "ce"},
    {"name": "u2pl", "loss": "fpl", "published_indices": True, "ignore_padding": True},
    {"name": "fixmatch", "loss": "ce", "confidence_threshold": 0.3},
    {"name": "unimatch", "loss": "ce", "confidence_threshold": 0.3},
    {"name": "unimatch", "loss": "fpl", "weighting": "concave", "ignore_padding": False},
    {"name": "corrmatch", "loss": "ce", "confidence_threshold": 0.3, "gated": True},
    {"name": "corrmatch", "loss": "fpl", "weighting": "concave", "ignore_padding": False},
    {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.3, "flip_group": 1},
    {"name": "unimatch_v2", "loss": "fpl", "weighting": "concave"},
    {"name": "ael", "loss": "ce", "confidence_threshold": 0.3},
    {"name": "ael", "loss": "fpl", "ignore_padding": True},
]
# On a GPU each of these makes the host wait: values or sizes that only the device knows.
SYNCHRONISING = {
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
}


class Network(nn.Sequential):
    """Stride 4 with batch normalisation."""

    feature_channels = (8, 8)
    fused_channels = 8

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, C, 1)
        )

    @property
    def classifier(self):
        return self[4]

    def forward(self, image, *, factors=None, beside_clean=True):
        if factors is None:
            return super().forward(image)
        if beside_clean:
            factors = [torch.cat([torch.ones_like(factor), factor]) for factor in factors]
        low = self[2](self[1](self[0](image))).repeat(1 + beside_clean, 1, 1, 1)
        return self.classifier(self[3](low * factors[0]) * factors[1])

    def forward_with_high(self, image, *, factors=None):
        return self(image, factors=factors), None, self.forward_with_decoded(image)[1]

    def forward_with_decoded(self, image):
        decoded = self[3](self[2](self[1](self[0](image))))
        return self.classifier(decoded), decoded

    def forward_with_fused(self, image):
        logits, decoded = self.forward_with_decoded(image)
        return logits, None, decoded

    def classify(self, decoded):
        return self.classifier(decoded)


def make_batch(method, device):
    num_views, generator = method.num_unlabelled_views, torch.Generator().manual_seed(0)

    def view(labelled):
        valid = torch.ones(NUM, *SIZE, dtype=torch.bool)
        valid[:, -3:] = False
        label = torch.randint(0, C, (NUM, *SIZE), generator=generator).masked_fill(~valid, 255)
        image = torch.randn(NUM, 3, *SIZE, generator=generator)
        index, wanted = (torch.randint(high, (NUM,), generator=generator) for high in (NUM_UNLABELLED, C))
        extra = (label, index) if labelled else (None, index, wanted)
        return View(*(t if t is None else t.to(device) for t in (image, valid, *extra)))

    mask = (torch.rand(NUM, *SIZE, generator=generator) < 0.4).to(device)
    unlabelled = tuple(view(False) for _ in range(num_views))
    paste = view(True) if method.reads_paste_sources else None
    batch = Batch(view(True), unlabelled, mask if num_views == 2 else None, paste)
    return apply_to_collection(complete(method, batch, generator), torch.Tensor, lambda t: t.to(device))


def prepare(changes, device="cpu"):
    """The arguments of ``train_step``, and the bare method, ready to train on the device."""
    config = tiny_run(**changes)
    torch.manual_seed(0)
    method = build_method(config.method, Network)
    method.prepare(TrainingSet(C, NUM_UNLABELLED, NUM))
    fabric = Fabric(accelerator=device, devices=1)
    batch = make_batch(method, fabric.device)
    module, optimizer = fabric.setup(method, build_optimizer(fabric.to_device(method), config.optim, fabric.device))
    module.train()
    if method.donors is not None:
        next(method.donors.steps())  # a loader reads, so that donors cross to the host
    return (fabric, module, optimizer, batch, 0.0), method


def test_step_is_plain_gradient_descent() -> None:
    """One step of SGD without momentum so far: w - lr * (gradient + decay * w)."""
    (fabric, module, optimizer, batch, progress), method = prepare({"loss": "fpl"})
    literal = copy.deepcopy(method)
    values = train_step(fabric, module, optimizer, batch, progress)
    losses = literal(batch, progress)
    loss = sum(losses.terms.values())
    loss.backward()
    torch.testing.assert_close(values["loss"], loss)
    assert values.keys() == {"loss", *losses.terms, *losses.telemetry}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for ours, before in zip(method.parameters(), literal.parameters(), strict=True):
        expected = before - 0.01 * (before.grad + decays[id(ours)] * before)
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [x for x in METHODS if x.get("name") not in ("supervised", "cac")],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_unsupervised_terms_follow_the_ramp(changes) -> None:
    def terms(**ramp):
        (*_, batch, _), method = prepare(changes | ungated | {"engine": "eager", "ramp_share": 0.0} | ramp)
        with torch.no_grad():
            method.networks[-1][0].weight.mul_(2)  # a teacher that differs from its student
        return method(batch, 0.125).terms

    ungated = {"confidence_threshold": 0.0} if "confidence_threshold" in changes else {}
    whole, quarter = terms(), terms(ramp_share=0.5, ramp_kind="linear")
    supervised = {"loss_sup", "loss_sup_spread", "loss_contrast", "loss_flaw"}
    for name, term in whole.items():
        torch.testing.assert_close(quarter[name], (1 if name in supervised else 0.25) * term)
    assert any(quarter[name] < term for name, term in whole.items())


def synchronisations(step):
    """The synchronising operators that ran, also those inside other operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return {event.key for event in profiler.key_averages()} & SYNCHRONISING


@pytest.mark.parametrize("changes", METHODS, ids=lambda changes: "-".join(str(value) for value in changes.values()))
def test_step_reads_nothing_back(changes, monkeypatch) -> None:
    # On a CPU, where that is free, the backward looks whether its factor is 1, and the choice of thresholds whether a
    # class is empty; a GPU decides the one for itself and does without the other.
    monkeypatch.setattr(gradient, "scale_", lambda grad, upstream, _: grad.mul_(upstream))
    # There, too, Adam reads its number of steps; on a GPU the fused one keeps it on the device.
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "adam", lambda *_, **__: None)
    monkeypatch.setattr(eager_context, "_is_known_empty", lambda member: False)
    arguments, method = prepare(changes)
    phases = set_up_phases(arguments[0], method)

    def step(num_micro_batches):
        train_step(*arguments, num_micro_batches=num_micro_batches, phases=phases)
        method.after_step(100)

    step(1)  # the first step sets things up
    for num_micro_batches in (1, 2):
        assert synchronisations(lambda num=num_micro_batches: step(num)) == set()


@pytest.mark.parametrize("name", [name for name, method in methods.METHODS.items() if hasattr(method.Config, "loss")])
def test_every_method_chooses_among_thresholds(name) -> None:
    changes = {"name": name, "loss": "fpl", "max_positives": None} | ({"warmup_share": 0.0} if name == "u2pl" else {})
    chosen, largest, plain = (
        train_step(*prepare(changes | {"threshold_candidates": candidates})[0])
        for candidates in ((0.3, 0.6, 0.85), (0.85,), ())
    )
    assert 0.3 < chosen["mean_threshold"] < 0.85 and chosen["mean_positives"] < largest["mean_positives"]
    torch.testing.assert_close(largest["mean_threshold"], torch.tensor(0.85))
    assert "mean_threshold" not in plain


def test_convolutions_are_chosen_by_trial_in_the_step_alone(monkeypatch) -> None:
    """Forward and backward see the mode; later code, such as evaluation, sees the previous mode."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    arguments, method = prepare({"name": "supervised"})
    seen = []
    method.networks[0][0].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    method.networks[0][0].weight.register_hook(lambda _: seen.append(torch.backends.cudnn.benchmark))
    train_step(*arguments)
    assert seen == [True, True]
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "read", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x.nonzero()]
)
def test_a_read_is_seen(read) -> None:
    assert synchronisations(lambda: read(torch.randn(9)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", METHODS, ids=lambda changes: "-".join(str(value) for value in changes.values()))
def test_step_never_waits_for_the_gpu(changes) -> None:
    arguments, method = prepare(changes, "cuda")
    phases = set_up_phases(arguments[0], method)
    train_step(*arguments, phases=phases)
    method.after_step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(*arguments, phases=phases)
        method.after_step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
