import copy

import pytest
import torch
from method_cases import CLOSE, AuxNetwork, C, literal_fpl, make_batch, make_method, upsample
from torch.nn import functional as F

from fpl_fast.trainer.methods.contrast import Pixels, contrastive_loss, push_keys
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.u2pl import U2plConfig

SMALL = {"anchors": 12, "negatives": 4, "keys_per_step": 10, "bank_size": 30, "bank_size_first": 40}


def made(loss="ce", **changes):
    """A method whose teacher is not its student, without dropout, whose draws no test could repeat."""
    method = make_method(name="u2pl", loss=loss, engine="eager", weighting="concave", **SMALL | changes).train()
    with torch.no_grad():
        for _, teacher in (method.networks, method.heads):
            for parameter in teacher.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    return method


def rows(x):
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def small(x):
    return F.interpolate(x.unsqueeze(1).float(), (4, 5), mode="nearest").squeeze(1).flatten()


@pytest.mark.parametrize("mix_probability", [0.0, 1.0])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_equals_the_literal_version(loss, mix_probability):
    """spec/methods.md section 3.6, in the order written there; contrast.py has a literal version of its own."""
    method = made(loss, unsup_weight=2.0, contrast_weight=0.5, mix_probability=mix_probability)
    literal, batch, progress = copy.deepcopy(method), make_batch(2)._replace(seed=7), 0.25
    losses = method(batch, progress)
    total = sum(losses.terms.values())
    total.backward()

    x, (u, partner), random = batch.labelled, batch.unlabelled, StepRandom(7, torch.device("cpu"))
    student, teacher = literal.networks
    random.common(1)
    m = batch.mix_mask.unsqueeze(1) & (mix_probability > 0)
    with torch.no_grad():
        teacher.eval()
        t = torch.where(m, upsample(teacher(partner.image)), upsample(teacher(u.image)))
        teacher.train()
    images = torch.cat([x.image, torch.where(m, partner.image, u.image)])
    features = student.layers[:-1](images)
    z, feature = student.layers[-1](features), literal.heads[0](features)
    with torch.no_grad():
        features = teacher.layers[:-1](images)
        p, teacher_feature = teacher.layers[-1](features), literal.heads[1](features)
        q = upsample(p[2:]).softmax(1)
        entropy = -(q * (q + 1e-10).log()).sum(1)
        low, high = (torch.quantile(entropy, share) for share in (0.15, 0.85))
    label = t.argmax(1)
    kept = entropy < high
    pixels = F.cross_entropy(upsample(z[2:]), label, reduction="none")[kept]
    unsup = pixels.mean()
    if loss == "fpl":
        fuzzy, weights = literal_fpl(*(y.movedim(1, -1)[kept] for y in (upsample(z[2:]), t)), 0.9, "concave")
        raw = (fuzzy * weights).mean()
        unsup = raw * (unsup / raw).detach()
    unsup = unsup * kept.numel() / kept.sum()

    labels = small(torch.cat([x.label, label]))
    reliable, unreliable = (small(torch.cat([x.label != 255, mask])) > 0 for mask in (entropy <= low, entropy >= high))
    given = Pixels(
        labels == torch.arange(C).unsqueeze(1), rows(p.softmax(1)), rows(teacher_feature), reliable, unreliable, 2 * 20
    )
    push_keys(literal.bank, given, random.common(C, 10))
    lots = random.common(C, 12), random.common(C, 12, 4)
    contrast = contrastive_loss(rows(feature), given, literal.bank, *lots, threshold=0.3)
    sup = F.cross_entropy(upsample(z[:2]), x.label, ignore_index=255)
    expected = sup + 2 * unsup + 0.5 * contrast
    expected.backward()

    assert all(term > 0 for term in losses.terms.values())
    torch.testing.assert_close(total, expected, **CLOSE)
    for (name, ours), theirs in zip(method.named_parameters(), literal.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
    for ours, theirs in zip(method.buffers(), literal.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)  # running statistics and the bank


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_gradient_reaches_the_student_and_its_head_and_no_teacher(loss, autocast):
    method = made(loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = method(make_batch(2), 0.0).terms
    for name, reached in (("loss_sup", method.networks[0]), ("loss_unsup", method.networks[0]),
                          ("loss_contrast", method.heads[0])):  # fmt: skip
        gradients = torch.autograd.grad(terms[name], list(reached.parameters()), retain_graph=True)
        assert all(g.isfinite().all() for g in gradients)
        assert sum(g.count_nonzero() > 0 for g in gradients) >= len(gradients) - 2  # biases before a normalisation
    sum(terms.values()).backward()
    assert all(p.grad is None for teacher in (method.networks[1], method.heads[1]) for p in teacher.parameters())


def test_labels_come_from_running_statistics_and_do_not_move_them():
    """The teacher's statistics move once a step, in its pass over what the student sees."""
    method = made()
    method(make_batch(2), 0.0)
    student, teacher = ([n.num_batches_tracked.item() for n in network.modules() if hasattr(n, "num_batches_tracked")]
                        for network in method.networks)  # fmt: skip
    assert student == teacher == [1, 1]
    assert method.teacher.training


def test_warm_up_is_supervised_and_moves_the_teacher_s_statistics():
    method, batch = made(warmup_share=0.5), make_batch(2)
    losses = method(batch, 0.4)
    assert losses.terms["loss_unsup"] == losses.terms["loss_contrast"] == 0
    sum(losses.terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert method.teacher.layers[1].num_batches_tracked == 1
    assert not method.bank.pushed.any()
    after = method(batch, 0.5)
    assert after.terms["loss_unsup"] > 0
    assert after.telemetry.keys() == losses.telemetry.keys()  # logged together


def test_the_teacher_follows_then_averages():
    method = made(follow_share=0.5, ema_decay=0.9)
    pairs = [(s, t) for student, teacher in (method.networks, method.heads)
             for s, t in zip(student.parameters(), teacher.parameters(), strict=True)]  # fmt: skip
    for progress, decay in ((0.4, 0.0), (0.5, 0.9)):
        method(make_batch(2), progress)
        before = [t.clone() for _, t in pairs]
        with torch.no_grad():
            for s, _ in pairs:
                s.add_(1.0)
        method.after_step(100)
        for (s, t), old in zip(pairs, before, strict=True):
            torch.testing.assert_close(t, decay * old + (1 - decay) * s)


def test_an_auxiliary_head_adds_its_supervised_loss():
    losses = [made(network=AuxNetworkWithFused, aux_weight=weight)(make_batch(2), 0.0).terms for weight in (0.0, 0.4)]
    assert losses[1]["loss_sup"] > losses[0]["loss_sup"]
    assert losses[1]["loss_unsup"] == losses[0]["loss_unsup"]


class AuxNetworkWithFused(AuxNetwork):
    def forward_with_fused(self, image):
        logits, _, fused = super().forward_with_fused(image)
        return logits, self.aux_head(self.layers[:3](image)[..., ::2, ::2]), fused


def test_padding_counts_unless_ignored():
    batch = make_batch(2)
    u, partner = batch.unlabelled
    nothing = tuple(view._replace(valid=torch.zeros_like(view.valid)) for view in (u, partner))
    nothing = batch._replace(unlabelled=nothing)
    terms = {
        (name, ignore): made(ignore_padding=ignore)(b, 0.0).terms["loss_unsup"].item()
        for name, b in (("padded", batch), ("nothing", nothing))
        for ignore in (False, True)
    }
    assert terms["padded", False] == terms["nothing", False]
    assert terms["nothing", True] == 0
    assert 0 < terms["padded", True] != terms["padded", False]


def test_one_class_alone_has_no_contrast():
    method, batch = made(), make_batch(2)
    with torch.no_grad():
        method.teacher.layers[-1].bias[2] += 1e4
    x = batch.labelled
    batch = batch._replace(labelled=x._replace(label=torch.where(x.label == 255, 255, 2)))
    terms = method(batch, 0.0).terms
    assert terms["loss_contrast"] == 0
    assert all(term.isfinite() for term in terms.values())


def test_impossible_numbers():
    for settings, message in (
        ({"mix_probability": 1.5}, r"method.mix_probability must be in \[0, 1\], got 1.5"),
        ({"unreliable_percent": 60.0}, r"method.unreliable_percent must be in \(0, 50\], got 60.0"),
        ({"anchors": 0}, "method.anchors must be >= 1, got 0"),
        ({"bank_size": 10}, "method.bank_size must be >= 1024, which is method.keys_per_step, got 10"),
        ({"contrast_weight": -1.0}, "method.contrast_weight must be >= 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            U2plConfig(**settings)
