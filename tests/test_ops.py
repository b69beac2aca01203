"""The operators inside PyTorch: opcheck, compilers, autocast, scalers, repeated and refused backwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tolerances import GRADIENT, INVARIANT
from torch.library import opcheck
from torch.testing import assert_close

import fpl_fast
from fpl_fast import fuzzy_positive_loss
from fpl_fast.engines import packages
from fpl_fast.kernels import arguments
from fpl_fast.kernels.arguments import LossInputs, LossOptions
from fpl_fast.ops.fuzzy_positive import fuzzy_positive_map, fuzzy_positive_operator, pack, unpack
from fpl_fast.ops.gradient import multiply_gradient_

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
SHAPE = (2, 5, 5, 7)
OPTIONS = LossOptions(0.9, 3, "concave", 1.0, "smooth", 0.1, 2.0)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors on the device of the operators' fastest engine."""
    with torch.device(DEVICE):
        yield


def draw(dtype=torch.float32, layout=torch.contiguous_format):
    student, teacher = (torch.randn(SHAPE).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_opcheck(dtype, layout):
    student, teacher = draw(dtype, layout)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, valid = torch.rand(2, 5, 7, dtype=wide), torch.rand(2, 5, 7) > 0.3
    low = student.detach()[:, :, 1:4, :5].requires_grad_()  # with size: logits of another shape than the pixels

    def check_sums(inputs, **keywords):
        tensors, settings = pack(inputs, OPTIONS)
        opcheck(fuzzy_positive_operator, tensors, settings | {"engine": "eager"} | keywords)

    def check_map(inputs):
        tensors, settings = pack(inputs, OPTIONS)
        opcheck(fuzzy_positive_map, tensors, settings | {"engine": "eager"})

    mixed = LossInputs(student, teacher, teacher, valid, weight, valid, weight)
    upsampled = LossInputs(low, low.detach(), valid_mask=valid, size=(5, 7))
    check_sums(mixed, reduction="sum", balance=False, with_grad=True, with_stats=True)
    check_sums(upsampled, reduction="sum", balance=False, with_grad=True, with_stats=False)
    plain = LossInputs(low.detach(), low.detach())
    check_sums(plain, reduction="mean", balance=False, with_grad=False, with_stats=True)
    check_sums(plain, reduction="weighted_mean", balance=True, with_grad=False, with_stats=False)
    check_map(LossInputs(student, teacher, pixel_weight=weight, valid_mask=valid))
    check_map(upsampled._replace(pixel_weight=weight, threshold=weight))
    opcheck(multiply_gradient_, (torch.randn(SHAPE), torch.tensor(0.5), torch.tensor(3.0)))


def test_a_packed_call_is_the_call():
    """Every option and every input arrives under its name."""
    student, teacher = (torch.randn(SHAPE) for _ in range(2))
    mask, weight, threshold = torch.rand(2, 5, 7) > 0.5, torch.rand(2, 5, 7), torch.rand(2, 5, 7)
    inputs = LossInputs(student, teacher, teacher + 1, mask, weight, ~mask, threshold, (9, 11), False)
    (*tensors, numbers), settings = pack(inputs, OPTIONS)
    unpacked, options = unpack(tuple(tensors), numbers, **settings)
    assert options == OPTIONS and len(set(map(str, OPTIONS))) == len(OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(unpacked.tensors(), inputs.tensors(), strict=True))
    assert (unpacked.size, unpacked.align_corners) == ((9, 11), False)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_fullgraph_compile(reduction):
    def step(student, teacher, valid):
        loss = fuzzy_positive_loss(
            2 * student, teacher, size=(9, 11), valid_mask=valid, weighting="linear", reduction=reduction, balance=True
        )
        return loss.sum()

    student, teacher = draw()
    valid = torch.rand(2, 9, 11) > 0.3
    loss = torch.compile(step, fullgraph=True)(student, teacher, valid)
    expected = step(student, teacher, valid)
    assert_close(loss, expected, **INVARIANT)
    actual, reference = (torch.autograd.grad(x, student)[0] for x in (loss, expected))
    assert_close(actual, reference, **INVARIANT)


@pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")
def test_compile_with_numbers_that_change():
    """Dynamo makes a symbol of a number at its second value."""
    student, teacher = draw()
    step = torch.compile(
        lambda threshold, power: fuzzy_positive_loss(student, teacher, threshold=threshold, confidence_power=power),
        fullgraph=True,
        dynamic=True,
    )
    for threshold, power in ((0.9, 1.0), (0.8, 2.5), (0.7, 0.5)):
        expected = fuzzy_positive_loss(student, teacher, threshold=threshold, confidence_power=power)
        assert_close(step(threshold, power), expected, **INVARIANT)


def test_backward_twice_through_a_retained_graph():
    student, teacher = draw()
    loss = fuzzy_positive_loss(student, teacher)
    (3 * loss).backward(retain_graph=True)
    once = student.grad.clone()
    (3 * loss).backward()
    assert_close(student.grad, 2 * once, **INVARIANT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradient_follows_grad_output(dtype):
    """Factors that are 1 and are not, through the in-place scaling; float16 is scaled in the backward only."""
    student, teacher = draw(dtype)
    exact = student.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(fuzzy_positive_loss(exact, teacher.double()), exact)
    for factor in (1.0, 65536.0, -0.25):
        loss = fuzzy_positive_loss(student, teacher)
        (g,) = torch.autograd.grad(loss, student, grad_outputs=torch.tensor(factor).expand(()))
        tolerance = {**GRADIENT[dtype], "atol": GRADIENT[dtype]["atol"] * abs(factor)}
        assert_close(g.double(), factor * expected, **tolerance)


def test_strided_grad_output_of_the_map():
    student, teacher = draw()
    losses = fuzzy_positive_loss(student, teacher, reduction="none")
    grad_output = torch.rand(7, 5, 2).permute(2, 1, 0)
    (g,) = torch.autograd.grad(losses, student, grad_output, retain_graph=True)
    (expected,) = torch.autograd.grad((losses * grad_output).sum(), student)
    assert_close(g, expected, **INVARIANT)
    losses = fuzzy_positive_loss(student, teacher, reduction="none")
    (constant,) = torch.autograd.grad(losses, student, torch.ones(()).expand(2, 5, 7))
    assert_close(constant, torch.autograd.grad(fuzzy_positive_loss(student, teacher, reduction="sum"), student)[0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_double_backward_is_refused(reduction):
    student, teacher = draw()
    loss = fuzzy_positive_loss(student, teacher, reduction=reduction).sum()
    with pytest.raises(RuntimeError, match="no double backward"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_float16_gradients_survive_many_pixels_and_a_scaler():
    """1 / num_pixels of a large batch underflows float16; times the loss scale it does not."""
    student = torch.randn(1, 3, 512, 512).half().requires_grad_()
    teacher = torch.randn(1, 3, 512, 512).half()
    scale = 2.0**16
    # K = 1: of so many pixels some lie so near the threshold that another dtype gives another K.
    (scale * fuzzy_positive_loss(student, teacher, max_positives=1, engine="eager")).backward()
    exact = student.detach().double().requires_grad_()
    (scale * fuzzy_positive_loss(exact, teacher.double(), max_positives=1)).backward()
    assert (student.grad[exact.grad.abs() > 2.0**-24] != 0).all()  # float16's smallest number
    assert_close(student.grad.double(), exact.grad, **GRADIENT[torch.float16])


def test_default_devices_reach_what_networks_allocate():
    """PyTorch's list of functions that allocate knows them by their identity, which the poisoning of memory changes."""
    with torch.device("meta"):
        assert torch.nn.Conv2d(5, 5, 1).weight.is_meta and torch.empty(1).is_meta


def test_autocast_leaves_the_loss_in_float32():
    student, teacher = draw()
    convolution = torch.nn.Conv2d(5, 5, 1)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = convolution(student)
        loss = fuzzy_positive_loss(logits, teacher)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    assert convolution.weight.grad.isfinite().all() and convolution.weight.grad.abs().sum() > 0


def test_autocast_leaves_the_adjoint_of_upsampling_in_float32():
    student, teacher = draw()
    gradients = []
    for enabled in (False, True):
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=enabled):
            loss = fuzzy_positive_loss(student, teacher, size=(9, 11), engine="eager")
        gradients.append(torch.autograd.grad(loss, student)[0])
    assert torch.equal(*gradients)


def test_no_gradient_is_computed_where_none_is_asked():
    student, teacher = draw()
    with torch.no_grad():
        assert not fuzzy_positive_loss(student, teacher).requires_grad
    assert not fuzzy_positive_loss(student.detach(), teacher).requires_grad


def test_import_needs_torch_alone():
    """The loss runs in a process where triton and every training package are hidden."""
    code = (
        "import sys\n"
        "for name in ('triton', 'timm', 'lightning', 'torchvision', 'torchmetrics', 'jsonargparse', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "import torch, fpl_fast\n"
        "z = torch.randn(1, 3, 4, 4, requires_grad=True)\n"
        "fpl_fast.fuzzy_positive_loss(z, torch.randn(1, 3, 4, 4)).backward()\n"
        "try:\n"
        "    fpl_fast.fuzzy_positive_loss(z, z, engine='triton')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("engine='triton' cannot run here: ") and "engine='eager' can" in result.stdout


def test_nothing_that_older_compilers_do_not_trace():
    """Dynamo of PyTorch 2.9 refuses ``isinstance`` with a union, that of 2.10 a property of a named tuple."""
    package = Path(fpl_fast.__file__).parent
    traced = [*package.glob("*.py"), *(package / "ops").glob("*.py"), Path(arguments.__file__)]
    calls = [node for path in traced for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    kinds = [call.args[1] for call in calls if getattr(call.func, "id", "") == "isinstance"]
    assert kinds and not any(isinstance(kind, ast.BinOp) for kind in kinds)
    assert not any(isinstance(value, property) for value in vars(LossInputs).values())
