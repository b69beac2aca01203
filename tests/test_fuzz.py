"""The fuzzing campaign: its first cases pass, and it finds, repeats and shrinks defects that are put into an engine."""

import dataclasses
import itertools
import json
import re

import fuzz
import fuzz_cases
import fuzz_checks
import fuzz_reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fuzz_approx import precision
from tolerances import EXACT

from fpl_fast import reference
from fpl_fast.engines import eager, eager_consistency, packages

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
# Fixed: the same inputs everywhere. Other seeds are for make fuzz, where a failure is looked at.
SEED = 20230618
CASES = 32 if torch.cuda.is_available() else 160  # there nearly every case compiles kernels, for seconds


@pytest.fixture(autouse=True)
def planes_are_not_compiled(monkeypatch):
    monkeypatch.setattr(packages, "load", lambda specialisation: specialisation.evaluate)
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None)


def cases(loss=None, **pinned):
    """The cases of a loss in the order of the campaign, without those that no pixel enters; PyTorch's own elsewhere."""
    for number in itertools.count():
        case = fuzz_cases.draw(SEED, number, pinned)
        if case.loss == loss or (loss is None and case.loss != "opinfo"):
            yield number, case


@pytest.mark.filterwarnings("ignore:confidence_threshold is at or above", "ignore:two classes leave")
@pytest.mark.parametrize("part", range(4))
def test_every_promise_holds(part):
    chosen = itertools.islice(cases(), part, CASES, 4)
    reports = [report for number, case in chosen for report in fuzz.failures(SEED, number, case, fuzz_checks.check)]
    assert not reports, "\n".join(reports)


def test_samples_of_pytorch():
    pytest.importorskip("expecttest", reason="torch.testing needs it")
    drawn = itertools.islice(cases("opinfo", layout="sliced", dtype="float32"), 12)
    reports = [report for number, case in drawn for report in fuzz.failures(SEED, number, case, fuzz_checks.check)]
    assert not reports, "\n".join(reports)
    assert not torch.backends.flags_frozen()  # the process goes on as before


def ranked_from_behind(monkeypatch):
    """Equal logits rank by the higher class."""
    right = reference.assign_positives

    def wrong(teacher_logits, threshold, max_positives):
        found = right(teacher_logits.flip(1), threshold, max_positives)
        last = teacher_logits.shape[1] - 1
        return found._replace(positives=found.positives.flip(1), pseudo_label=last - found.pseudo_label)

    monkeypatch.setattr(reference, "assign_positives", wrong)


def around_sums(change):
    """A defect of the eager engine's sums and gradient, given the call's inputs."""

    def install(monkeypatch):
        right = eager.fuzzy_positive_sums

        def wrong(inputs, options, **keywords):
            return change(inputs, options, *right(inputs, options, **keywords))

        monkeypatch.setattr(eager, "fuzzy_positive_sums", wrong)

    return install


def outside(x):
    """The element before the first one."""
    return x.as_strided((1,), (1,), max(x.storage_offset() - 1, 0))[0]


def reads_outside(inputs, options, sums, grad):
    return sums + 0 * outside(inputs.student).to(sums), grad


def writes_outside(inputs, options, sums, grad):
    outside(inputs.teacher).fill_(1)
    return sums, grad


def writes_an_input(inputs, options, sums, grad):
    if inputs.valid_mask is not None:
        inputs.valid_mask.logical_not_()
    return sums, grad


def loses_a_thousandth(inputs, options, sums, grad):
    return sums, grad if grad is None or options.form == "smooth" else grad * 1.001


def does_not_repeat(inputs, options, sums, grad):
    return sums * (1 + 3e-7 * torch.rand(sums.shape, device=sums.device)), grad


def depends_on_the_batch(monkeypatch):
    """By less than rounding."""
    right = eager.fuzzy_positive_map

    def wrong(inputs, options):
        return right(inputs, options) * (1 + 3e-7 * (len(inputs.student) - 1))

    monkeypatch.setattr(eager, "fuzzy_positive_map", wrong)


REFERENCE, WRITTEN = "the float64 reference", "inputs are not written"
PLAIN = {
    "balance": False,
    "content": "normal",
    "teacher_content": "normal",
    "reduction": "sum",
    "return_stats": False,
    "dtype": "float32",
}
DEFECTS = {
    "ties": (ranked_from_behind, {}, REFERENCE, {"teacher_content"}),
    "reads outside": (around_sums(reads_outside), PLAIN, REFERENCE, {"reduction"}),
    "writes outside": (around_sums(writes_outside), PLAIN, WRITTEN, set()),
    "writes an input": (around_sums(writes_an_input), PLAIN, WRITTEN, {"valid"}),
    "a thousandth": (around_sums(loses_a_thousandth), PLAIN, REFERENCE, {"form"}),
    "other bits": (around_sums(does_not_repeat), PLAIN, "the same bits again", {"reduction"}),
    "the batch": (depends_on_the_batch, PLAIN | {"reduction": "none"}, "an image alone", {"n"}),
}


@pytest.mark.filterwarnings("ignore:confidence_threshold is at or above", "ignore:two classes leave")
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_and_shrunk(name, monkeypatch):
    """To the settings that the defect needs and, where numbers matter, at most two more."""
    install, pinned, promise, needed = DEFECTS[name]
    drawn = [case for _, case in itertools.islice(cases("fuzzy_positive_loss", **pinned), 40)]
    drawn = [dataclasses.replace(case, pinned=frozenset()) for case in drawn]
    assert not any(fuzz_checks.check(case, "eager", fuzz.DEVICE) for case in drawn)
    install(monkeypatch)
    found = ((case, fuzz_checks.check(case, "eager", fuzz.DEVICE)) for case in drawn)
    case, broken = next((case, broken) for case, broken in found if broken is not None and broken[0] == promise)
    smallest, again = fuzz.shrunk(case, "eager", broken, fuzz_checks.check)
    assert (again[0] == promise and fuzz_checks.check(smallest, "eager", fuzz.DEVICE) == again) or name == "other bits"
    simplest = {setting: values[0] for setting, values in fuzz_cases.SETTINGS["fuzzy_positive_loss"].items()}
    left = {setting for setting, value in smallest.settings.items() if value != simplest[setting]}
    assert needed <= left and len(left - needed) <= 2, smallest


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_a_defect_of_the_consistency_is_found(kind, monkeypatch):
    """A thousandth of its gradient."""
    drawn = [case for _, case in itertools.islice(cases("consistency_loss", **PLAIN, kind=kind), 8)]
    assert not any(fuzz_checks.check(case, "eager", fuzz.DEVICE) for case in drawn)
    right = eager_consistency._Distances.gradient
    monkeypatch.setattr(eager_consistency._Distances, "gradient", lambda chunk, scale: right(chunk, scale) * 1.001)
    found = {broken[0] for case in drawn if (broken := fuzz_checks.check(case, "eager", fuzz.DEVICE))}
    assert found == {REFERENCE}


def test_a_failure_names_its_case(monkeypatch):
    number, case = next(cases("fuzzy_positive_loss"))
    broken = fuzz.failures(SEED, number, case, lambda *_: ("a promise", "3 instead of 2"), "cpu")
    report, *_ = broken
    assert f"--only {SEED}:{number}, engine eager, a promise: 3 instead of 2" in report
    assert "shrunk: fuzzy_positive_loss(), numbers of seed" in report


def test_a_campaign_goes_on(monkeypatch, tmp_path, capsys):
    """It begins where it stopped, with the counts so far; a campaign of other settings is refused."""
    monkeypatch.setattr(fuzz, "FOLDER", tmp_path)
    monkeypatch.setattr(fuzz, "prepare", lambda compiled: None)
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--minutes", "0.001", "--seed", "7"])
    seen = []
    monkeypatch.setattr(fuzz_checks, "check", lambda case, engine, device: seen.append((case.seed, engine)))
    assert fuzz.main() == 0
    file = tmp_path / f"{fuzz.DEVICE}-7.json"
    first = json.loads(file.read_text())
    assert fuzz.main() == 0
    kept = json.loads(file.read_text())
    assert 0 < first["next"] < kept["next"] and len(seen) == sum(kept["counts"].values())
    assert len(set(seen)) == len(seen)  # none twice
    assert f"seed 7: {kept['next']} inputs, {len(seen)} inputs x engines" in capsys.readouterr().out
    file.write_text(json.dumps(kept | {"table": "another"}))
    with pytest.raises(SystemExit):
        fuzz.main()
    assert f"{file} is a campaign of other settings than those of fuzz_cases.py; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [("--minutes", "0", "--minutes must be > 0, got 0"), ("--only", "7:-1", "must be two numbers, .*got '7:-1'")],
)
def test_options_are_checked(monkeypatch, capsys, option, value, rule):
    monkeypatch.setattr("sys.argv", ["fuzz.py", option, value])
    with pytest.raises(SystemExit):
        fuzz.main()
    assert re.search(rule, capsys.readouterr().err)


def test_cases_follow_from_seed_and_number():
    assert fuzz_cases.draw(3, 5) == fuzz_cases.draw(3, 5) != fuzz_cases.draw(3, 6)
    case = fuzz_cases.draw(3, 5)
    for simpler in case.shrink():
        changed = [name for name in case.settings if simpler.settings[name] != case.settings[name]]
        assert len(changed) == 1 and dataclasses.replace(simpler, settings=case.settings) == case


@pytest.mark.parametrize(("size", "align_corners"), [((7, 9), True), ((7, 9), False), ((2, 3), False), ((1, 1), True)])
def test_the_reference_interpolates_like_pytorch(size, align_corners):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    p = precision("eager", double=True)
    ours = fuzz_reference.sample(x.detach().numpy(), size, align_corners, p).values
    np.testing.assert_allclose(ours, fuzz_reference.columns(expected.detach().numpy()), **EXACT)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * upstream).sum(), x)
    back = fuzz_reference.adjoint(fuzz_reference.columns(upstream.numpy()), x.shape, size, align_corners)
    np.testing.assert_allclose(back, gradient.numpy(), **EXACT)


def test_the_reference_has_the_published_values():
    """Rows of ../shared/spec/fpl.md: K, L and the concave weight, at T = 0.9 and with at most three positives."""
    z = np.array([0.2, 1.5, -0.3, 0.9, -1.0])[:, None]
    p = precision("eager", double=True)
    for probabilities, k, loss, weight in (
        ((0.60, 0.34, 0.03, 0.02, 0.01), 1, 2.026934, 0.629918),
        ((0.50, 0.30, 0.15, 0.03, 0.02), 2, 1.551316, 0.791111),
        ((0.40, 0.30, 0.15, 0.10, 0.05), 3, 2.049310, 0.807617),
    ):
        teacher = fuzz_reference.sample(np.log(probabilities).reshape(1, 5, 1, 1), None, True, p)
        found = fuzz_reference.assign(teacher, np.array([0.9]), 3, p, "concave")
        value, _ = fuzz_reference.fuzzy_loss(z, found.positives, "smooth")
        assert found.k == k and found.sure
        np.testing.assert_allclose([value[0], found.weight.value[0]], [loss, weight], atol=6e-7)
