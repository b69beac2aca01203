import copy

import pytest
import torch
from method_cases import CLOSE, SIZE, AuxNetwork, C, literal_fpl, make_batch, make_method, upsample
from test_components import flood
from torch.nn import functional as F

from fpl_fast.trainer.methods import TrainingSet, build_method

H, W = SIZE
LR = (4, 5)  # height and width of the logits


def make_ael(**changes):
    """A method whose teacher is not its student, with banks that have seen something."""
    method = make_method(name="ael", weighting="concave", component_area=0.06, bank_area=0.15, **changes).train()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        method.cutmix_bank.holds.copy_(torch.rand(method.cutmix_bank.holds.shape) < 0.4)
    return method


def first_drawn(weights, generator):
    """The rule of ``draw``: exponential clocks, the first to ring."""
    return (weights / torch.empty(weights.shape).exponential_(generator=generator)).argmax(-1)


def literal_paste(x, source, b, config, generator):
    """spec/ael.md section 6."""
    targets = [c for c in range(C) if c not in config.paste_exclude]
    p = torch.zeros(C)
    p[targets] = (1 - b[targets]).sqrt().softmax(0)
    for c in set(first_drawn(p.expand(config.paste_draws, C), generator).tolist()):
        members = source.label == c
        x = x._replace(
            image=torch.where(members.unsqueeze(1), source.image, x.image), label=x.label.masked_fill(members, c)
        )
    return x


def literal_mask(donor_logits, wanted, random_box, generator):
    """spec/ael.md section 5, steps 2 and 5, at the resolution of the logits."""
    masks, found = [], []
    lot = torch.rand(len(donor_logits), LR[0] * LR[1] + 1, generator=generator)
    for n, (logits, k) in enumerate(zip(donor_logits, wanted.tolist(), strict=True)):
        components = flood(logits.argmax(0) == k)
        large = {1 + max(r * LR[1] + c for r, c in grown): grown for grown in components if len(grown) > 0.06 * 20}
        found.append(bool(large))
        mask = random_box[n].clone()
        if large:
            rows, columns = zip(*large[max(large, key=lambda slot: lot[n, slot])], strict=True)
            for y in range(H):
                for x in range(W):
                    r, c = round(y * (LR[0] - 1) / (H - 1)), round(x * (LR[1] - 1) / (W - 1))
                    mask[y, x] = min(rows) <= r <= max(rows) and min(columns) <= c <= max(columns)
        masks.append(mask)
    return torch.stack(masks), found


def literal_consistency(z, t, b, config, generator):
    """spec/ael.md section 7.2 and spec/fpl.md section 6 on full-resolution logits (N, C, H, W)."""
    confidence, label = t.softmax(1).max(1)
    rate = ((1 - b) / (1 - b).max()) ** config.equalize_power
    u = torch.rand(confidence.shape, generator=generator)
    a = torch.zeros(confidence.shape)
    student = z.argmax(1)
    for n in range(len(z)):
        for y in range(H):
            for x in range(W):
                kept = u[n, y, x] >= 1 - rate[student[n, y, x]]
                a[n, y, x] = confidence[n, y, x] ** config.confidence_power * kept
    if config.loss == "ce":
        ce = F.cross_entropy(z, label, reduction="none")
        sure = confidence >= config.confidence_threshold
        return (a * sure * ce).sum() / a.sum()
    pixels, w = literal_fpl(*(y.movedim(1, -1).reshape(-1, C) for y in (z, t)), config.threshold, "concave")
    balance = (F.cross_entropy(z, label) / (pixels * w).mean()).item()
    return (a.flatten() / a.sum() * pixels * w).sum() * balance


def literal_ael(method, batch):
    """spec/ael.md section 9, with randomness drawn in the order of the method."""
    config, b, generator = method.config, method.bank.confidence.clone(), torch.Generator().manual_seed(batch.seed)
    x = batch.labelled
    if batch.paste is not None:
        x = literal_paste(x, batch.paste, b, config, generator)
    z_x = upsample(method.student(x.image))
    sup = F.cross_entropy(z_x, x.label, ignore_index=255)
    u, donor = batch.unlabelled
    with torch.no_grad():
        t_x = upsample(method.teacher(x.image))
        low = method.teacher(torch.cat([u.image, donor.image]))
    low_u, low_donor = low.chunk(2)
    mask, found = literal_mask(low_donor, donor.wanted, batch.mix_mask, generator)

    holds = method.cutmix_bank.holds.clone()
    for image, logits in zip([*u.index.tolist(), *donor.index.tolist()], low, strict=True):
        for c in range(C):
            holds[c, image] = (logits.argmax(0) == c).sum() / (LR[0] * LR[1]) >= config.bank_area
    m = mask.unsqueeze(1).float()
    t_u = upsample(low_u) * (1 - m) + upsample(low_donor) * m
    z_u = upsample(method.student(u.image * (1 - m) + donor.image * m))
    unsup = [literal_consistency(z, t, b, config, generator) for z, t in ((z_x, t_x), (z_u, t_u))]

    probability = z_x.detach().softmax(1)
    for c in range(C):
        members = x.label == c
        v = probability[:, c][members].mean() if members.any() else 0.0
        b[c] = config.bank_momentum * b[c] + (1 - config.bank_momentum) * v
    wanted = first_drawn((1 - b).softmax(0).expand(3, C), generator)
    eligible = [holds[k] if holds[k].any() else torch.ones_like(holds[k]) for k in wanted.tolist()]
    chosen = torch.stack([first_drawn(torch.stack(eligible).float(), generator), wanted], dim=1)
    return sup, *(config.unsup_weight * term for term in unsup), b, holds, chosen, found


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ce"},
        {"loss": "ce", "confidence_threshold": 0.5, "equalize_power": 2.0, "paste_draws": 1},
        {"loss": "ce", "confidence_threshold": 0.5, "paste_exclude": (0, 2)},
        {"loss": "fpl", "unsup_weight": 2.0, "bank_momentum": 0.6},
        {"loss": "fpl", "confidence_power": 1.0, "confidence_threshold": 0.5},  # without effect, as in the public code
    ],
)
def test_a_step_equals_the_literal_version(changes):
    method, batch = make_ael(**changes), make_batch(2, paste=True)._replace(seed=7)
    literal = copy.deepcopy(method)
    losses = method(batch, 0.0)
    method.after_step(0)
    *terms, b, holds, chosen, found = literal_ael(literal, batch)

    for name, expected in zip(("loss_sup", "loss_labelled", "loss_unsup"), terms, strict=True):
        assert expected > 0
        torch.testing.assert_close(losses.terms[name], expected, **CLOSE)
    sum(losses.terms.values()).backward()
    sum(terms).backward()
    for ours, theirs in zip(method.student.parameters(), literal.student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)
    torch.testing.assert_close(method.bank.confidence, b)
    assert torch.equal(method.cutmix_bank.holds, holds)
    assert torch.equal(method.queue.donors[:-1], literal.queue.donors[1:])
    assert torch.equal(method.queue.donors[-1], chosen)
    assert losses.telemetry["adaptive_boxes"] == pytest.approx(sum(found) / 3)
    for (name, ours), theirs in zip(literal.student.named_buffers(), method.student.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


def test_both_kinds_of_masks_are_drawn():
    """Over the seeds of the test above and others, some donors show their class and some do not."""
    steps = [make_ael(seed=seed)(make_batch(2, seed=seed), 0.0) for seed in range(6)]
    assert len({losses.telemetry["adaptive_boxes"].item() for losses in steps}) > 1


@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_each_term_reaches_the_student_and_no_teacher(loss):
    method = make_ael(loss=loss, network=AuxNetwork)
    losses = method(make_batch(2, paste=True), 0.0)
    assert set(losses.terms) == {"loss_sup", "loss_labelled", "loss_unsup"}
    for term, value in losses.terms.items():
        method.zero_grad()
        value.backward(retain_graph=True)
        assert value > 0
        for name, parameter in method.student.named_parameters():
            if not name.startswith("aux_head") or term == "loss_sup":
                assert parameter.grad.count_nonzero() > 0, (term, name)
        assert all(p.grad is None for p in method.teacher.parameters())
    assert not any(value.requires_grad for value in losses.telemetry.values())


def test_the_teacher_has_dropout_and_copies_at_first():
    method = make_ael(network=AuxNetwork)
    method(make_batch(2), 0.0)
    image = torch.randn(8, 3, *SIZE)
    assert not torch.equal(method.teacher(image), method.teacher(image))
    method.after_step(0)
    for ours, theirs in zip(method.teacher.parameters(), method.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert method.eval_network is method.teacher


@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_engines_agree(loss):
    """The kernels and the unfused equations: one recipe, the same losses and gradients."""
    results = []
    for engine in ("eager", "triton"):
        method = make_ael(loss=loss, engine=engine)
        losses = method(make_batch(2, paste=True), 0.0)
        sum(losses.terms.values()).backward()
        gradients = [p.grad for p in method.student.parameters()]
        results.append([*losses.terms.values(), *losses.telemetry.values(), *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_padding_counts_unless_ignored(loss):
    batch = make_batch(2)
    hidden = [view._replace(valid=torch.zeros_like(view.valid)) for view in (batch.labelled, *batch.unlabelled)]
    hidden = batch._replace(labelled=hidden[0], unlabelled=tuple(hidden[1:]))
    names = ("loss_labelled", "loss_unsup")
    for name in names:
        assert make_ael(loss=loss)(hidden, 0.0).terms[name] > 0
        assert make_ael(loss=loss, ignore_padding=True)(hidden, 0.0).terms[name] == 0


def test_first_donors_are_any_images():
    config = make_method(name="ael", donor_lead=400).config
    method = build_method(config, AuxNetwork, ignore_index=255)
    method.prepare(TrainingSet(num_classes=C, num_unlabelled=9, batch_unlabelled=3))
    assert method.queue.donors.shape == (400, 3, 2)
    images, wanted = method.queue.donors.unbind(-1)
    assert set(images.flatten().tolist()) == set(range(9))
    assert set(wanted.flatten().tolist()) == set(range(C))


def test_something_must_be_left_to_paste():
    with pytest.raises(ValueError, match=r"method.paste_exclude must leave one of the 6 classes, got \(0, 1, 2"):
        make_method(name="ael", paste_exclude=tuple(range(C)))


@pytest.mark.parametrize("value", [-1, C, 99])
def test_only_classes_can_be_excluded_from_pasting(value):
    with pytest.raises(ValueError, match=rf"method.paste_exclude must hold classes 0 ... {C - 1}, got {value}"):
        make_method(name="ael", paste_exclude=(0, value))
