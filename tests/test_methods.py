import copy

import pytest
import torch
from method_cases import CLOSE, AuxNetwork, C, literal_fpl, make_batch, make_batch_for, make_method, upsample
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods import Batch
from fpl_fast.trainer.optim import build_optimizer, poly_lr, set_lr


def literal_cps(networks, batch, config):
    """spec/cps.md sections 2 and 7, spec/fpl.md section 5, in the order written there."""
    b1, b2 = networks
    x = batch.labelled.image
    if config.cutmix:
        u0, u1 = (view.image for view in batch.unlabelled)
        m = batch.mix_mask.unsqueeze(1).float()
        with torch.no_grad():
            z1_0, z1_1, z2_0, z2_1 = b1(u0), b1(u1), b2(u0), b2(u1)
            t1 = upsample(z1_0) * (1 - m) + upsample(z1_1) * m
            t2 = upsample(z2_0) * (1 - m) + upsample(z2_1) * m
        mixed = u0 * (1 - m) + u1 * m
        s1, s2 = upsample(b1(mixed)), upsample(b2(mixed))
        x1, x2 = upsample(b1(x)), upsample(b2(x))
    else:
        (u,) = (view.image for view in batch.unlabelled)
        x1, u1, x2, u2 = upsample(b1(x)), upsample(b1(u)), upsample(b2(x)), upsample(b2(u))
        s1, s2 = torch.cat([x1, u1]), torch.cat([x2, u2])
        t1, t2 = s1.detach(), s2.detach()
    sup = sum(F.cross_entropy(z, batch.labelled.label, ignore_index=255) for z in (x1, x2))
    base = F.cross_entropy(s1, t2.argmax(1)) + F.cross_entropy(s2, t1.argmax(1))
    if config.loss == "ce":
        return sup + config.unsup_weight * base
    raw = 0
    for s, t in ((s1, t2), (s2, t1)):
        s, t = (z.permute(0, 2, 3, 1).reshape(-1, C) for z in (s, t))
        loss, weight = literal_fpl(s, t, config.threshold, config.weighting)
        raw = raw + (loss * weight).mean()
    return sup + config.unsup_weight * (base.item() / raw.item()) * raw


@pytest.mark.parametrize("weighting", ["none", "concave"])
@pytest.mark.parametrize("cutmix", [False, True])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_cps_equals_the_literal_version(loss, cutmix, weighting):
    method = make_method(loss=loss, cutmix=cutmix, weighting=weighting, unsup_weight=1.5).train()
    literal = copy.deepcopy(method)
    batch = make_batch(method.num_unlabelled_views)

    losses = method(batch, 0.0)
    total = sum(losses.terms.values())
    expected = literal_cps(literal.networks, batch, method.config)
    torch.testing.assert_close(total, expected, **CLOSE)

    total.backward()
    expected.backward()
    for (name, ours), theirs in zip(method.named_parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
    for ours, theirs in zip(method.buffers(), literal.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)  # running statistics: same passes in the same order


METHODS = [
    pytest.param({"name": "supervised"}, 1, id="supervised"),
    pytest.param({"name": "supervised", "sup_loss": "ohem", "ohem_min_kept": 100}, 1, id="ohem"),
    pytest.param({"loss": "ce", "cutmix": False}, 2, id="cps"),
    pytest.param({"loss": "fpl", "cutmix": False}, 2, id="fpl_cps"),
    pytest.param({"loss": "ce"}, 4, id="cps_cutmix"),
    pytest.param({"loss": "fpl"}, 4, id="fpl_cps_cutmix"),
]


@pytest.mark.parametrize(("changes", "num_passes"), METHODS)
@pytest.mark.parametrize("autocast", [False, True])
def test_every_term_reaches_every_network(changes, num_passes, autocast):
    """Passes without gradient come first: under autocast their cached weights must not be reused by those with it."""
    method = make_method(**changes).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = method(make_batch(method.num_unlabelled_views), 0.0)
    assert set(losses.terms) == ({"loss_sup"} if changes.get("name") else {"loss_sup", "loss_unsup"})
    for name, term in losses.terms.items():
        assert term.item() > 0
        gradients = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
        for (parameter, _), gradient in zip(method.named_parameters(), gradients, strict=True):
            assert gradient is not None, f"{name} does not reach {parameter}"
            assert gradient.isfinite().all()
            assert gradient.count_nonzero() > 0, f"{name} does not reach {parameter}"
    for norm in (module for module in method.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.num_batches_tracked == num_passes
    assert not any(value.requires_grad for value in losses.telemetry.values())


def unsup(batch, seed=0, **changes):
    method = make_method(seed, **changes).train()
    return method(batch, 0.0).terms["loss_unsup"]


@pytest.mark.parametrize("view", [0, 1])
def test_empty_and_full_masks(view):
    """A mask of zeros is the first view unmixed, a mask of ones the second."""
    batch = make_batch(2)
    full = torch.full_like(batch.mix_mask, bool(view))
    alone = batch.unlabelled[view]
    same = Batch(batch.labelled, (alone, alone), batch.mix_mask)
    ours = unsup(batch._replace(mix_mask=full))
    torch.testing.assert_close(ours, unsup(same), **CLOSE)


def test_balance_gives_the_value_of_the_cross_entropy():
    batch = make_batch(2)
    plain = unsup(batch, loss="ce")
    torch.testing.assert_close(unsup(batch, loss="fpl", weighting="concave"), plain, **CLOSE)
    assert unsup(batch, loss="fpl", weighting="concave", balance=False) < 0.98 * plain


def test_one_positive_is_cross_entropy():
    batch = make_batch(1)
    ours = unsup(batch, loss="fpl", cutmix=False, max_positives=1, balance=False)
    torch.testing.assert_close(ours, unsup(batch, loss="ce", cutmix=False), **CLOSE)


@pytest.mark.parametrize("cutmix", [False, True])
def test_padding_counts_unless_ignored(cutmix):
    batch = make_batch(2 if cutmix else 1)
    nothing = Batch(
        batch.labelled._replace(valid=torch.zeros_like(batch.labelled.valid)),
        tuple(view._replace(valid=torch.zeros_like(view.valid)) for view in batch.unlabelled),
        batch.mix_mask,
    )
    counted = [unsup(b, cutmix=cutmix) for b in (batch, nothing)]
    torch.testing.assert_close(*counted, rtol=0, atol=0)
    assert unsup(nothing, cutmix=cutmix, ignore_padding=True) == 0
    assert 0 < unsup(batch, cutmix=cutmix, ignore_padding=True) != counted[0]


def test_validity_of_a_mixture_is_mixed():
    """If only the pasted view is valid, exactly the pasted pixels count."""
    batch = make_batch(2)
    first, second = batch.unlabelled
    batch = batch._replace(
        unlabelled=(
            first._replace(valid=torch.zeros_like(first.valid)),
            second._replace(valid=torch.ones_like(first.valid)),
        )
    )
    none_pasted = batch._replace(mix_mask=torch.zeros_like(batch.mix_mask))
    assert unsup(none_pasted, ignore_padding=True) == 0
    assert unsup(batch, ignore_padding=True) > 0


def test_weight_zero_is_zero_with_finite_gradient():
    method = make_method(unsup_weight=0.0).train()
    losses = method(make_batch(2), 0.0)
    assert losses.terms["loss_unsup"] == 0
    sum(losses.terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_balance_survives_a_loss_of_zero():
    """Networks that agree beyond float32's resolution: 0 / 0 must not reach the loss."""
    method = make_method(loss="fpl").train()
    with torch.no_grad():
        for network in method.networks:
            network.layers[-1].weight.zero_()
            network.layers[-1].bias.copy_(torch.tensor([1e4, 0, 0, 0, 0, 0]))
    losses = method(make_batch(2), 0.0)
    assert losses.terms["loss_unsup"] == 0
    losses.terms["loss_unsup"].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_no_labelled_pixel_is_zero():
    method = make_method(name="supervised").train()
    batch = make_batch(0)
    batch = batch._replace(labelled=batch.labelled._replace(label=torch.full_like(batch.labelled.label, 255)))
    loss = method(batch, 0.0).terms["loss_sup"]
    loss.backward()
    assert loss == 0


def test_telemetry():
    method = make_method(loss="fpl", threshold=0.95).train()
    telemetry = method(make_batch(2), 0.0).telemetry
    assert 1 < telemetry["mean_positives"] <= 3
    assert telemetry["fpl_ce_ratio"] > 0
    telemetry = make_method(loss="ce").train()(make_batch(2), 0.0).telemetry
    assert telemetry["mean_positives"] == 1
    assert telemetry["fpl_ce_ratio"] == pytest.approx(1)


def test_weights_decay_and_biases_do_not():
    method = make_method(name="cps")
    decaying, others = method.param_groups(OptimConfig(weight_decay=0.1))
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decaying["params"]} == {4}
    assert {p.ndim for p in others["params"]} == {1}
    assert len(decaying["params"]) + len(others["params"]) == len(list(method.parameters()))


def test_heads_learn_faster_and_everything_may_decay():
    method = make_method(name="supervised")
    network = method.networks[0]
    network.backbone = nn.Conv2d(3, 2, 1)
    groups = method.param_groups(OptimConfig(weight_decay=0.1, decay_all=True, head_lr_scale=10.0))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert {group["weight_decay"] for group in groups} == {0.1}
    assert all(scales[id(p)] == 1 for p in network.backbone.parameters())
    assert all(scales[id(p)] == 10 for p in network.layers.parameters())
    assert len(scales) == len(list(method.parameters()))


def test_one_step_moves_head_and_backbone_by_their_own_rates():
    method = make_method(name="supervised")
    network = method.networks[0]
    network.backbone = nn.Conv2d(3, 2, 1)
    config = OptimConfig(lr=0.5, head_lr_scale=10.0, weight_decay=0.0)
    optimizer = build_optimizer(method, config, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_lr(optimizer, poly_lr(config, 1, 4))
    optimizer.step()
    for name, parameter in network.named_parameters():
        lr = 0.5 * 0.75**0.9 * (1 if name.startswith("backbone.") else 10)
        torch.testing.assert_close(parameter.detach(), before[name] - lr)


def test_an_auxiliary_head_adds_its_loss():
    """Also in methods whose authors had none; its gradient flows."""
    batch = make_batch(1)
    for name in ("supervised", "cps", "mean_teacher"):
        unmixed = {"cutmix": False} if name == "cps" else {}
        method = make_method(name=name, aux_weight=0.3, network=AuxNetwork, **unmixed).train()
        for network in method.networks:
            network.dropout.p = 0.0
        plain = copy.deepcopy(method)
        for network in plain.networks:
            network.aux_head = None
        ours, without = (m(batch, 0.0).terms["loss_sup"] for m in (method, plain))
        students = [n for n in method.networks if n.aux_head.weight.requires_grad]
        aux = sum(F.cross_entropy(upsample(n.forward_with_aux(batch.labelled.image)[1]), batch.labelled.label,
                                  ignore_index=255) for n in students)  # fmt: skip
        torch.testing.assert_close(ours, without + 0.3 * aux, **CLOSE)
        ours.backward()
        assert all(network.aux_head.weight.grad.count_nonzero() > 0 for network in students)


def test_engines_are_forced():
    for loss in ("ce", "fpl"):
        with pytest.raises(ValueError, match="engine='triton' cannot run here: it computes in float32"):
            make_method(loss=loss, engine="triton").double().train()(as_double(make_batch(2)), 0.0)


def as_double(batch):
    views = [view._replace(image=view.image.double()) for view in (batch.labelled, *batch.unlabelled)]
    return Batch(views[0], tuple(views[1:]), batch.mix_mask)


def test_networks_differ_and_the_first_is_evaluated():
    method = make_method()
    first, second = (network.layers[0].weight for network in method.networks)
    assert not torch.equal(first, second)
    assert method.eval_network is method.networks[0]


@pytest.mark.parametrize(
    ("changes", "num_views"),
    [
        ({"name": "cps", "loss": "ce"}, 2),
        ({"name": "cps", "loss": "fpl"}, 2),
        ({"name": "mean_teacher", "loss": "fpl"}, 1),
        ({"name": "cct", "loss": "fpl"}, 1),
        ({"name": "cct", "loss": "kl"}, 1),
        ({"name": "gct", "loss": "fpl", "detector_scale": 5}, 1),
        ({"name": "cutmix_seg", "loss": "fpl", "confidence_threshold": 0.3}, 2),
        ({"name": "cutmix_seg", "loss": "mse", "confidence_threshold": 0.3}, 2),
        ({"name": "unimatch", "loss": "fpl", "confidence_threshold": 0.3}, 2),
        ({"name": "corrmatch", "loss": "fpl", "confidence_threshold": 0.3}, 2),
        ({"name": "unimatch_v2", "loss": "fpl", "confidence_threshold": 0.3}, 1),
    ],
)
def test_engines_agree(changes, num_views):
    """The kernels and the unfused equations: one recipe, the same losses and gradients."""
    results = []
    for engine in ("eager", "triton"):
        method = make_method(weighting="concave", engine=engine, **changes).train()
        assert method.num_unlabelled_views == num_views
        batch = make_batch_for(method, num=1)
        losses = method(batch, 0.0)
        sum(losses.terms.values()).backward()
        gradients = [p.grad for p in method.parameters() if p.requires_grad]
        results.append([*losses.terms.values(), *losses.telemetry.values(), *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
