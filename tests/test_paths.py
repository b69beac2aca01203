"""The two ways into a loss, by eager code and by a compiler: the same bits, and few launches."""

import operator
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fpl_fast import consistency_loss, cross_entropy, fuzzy_positive_loss
from fpl_fast.ops import gradient

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = (2, 5, 5, 13)
CALLS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "weighted mean": {"reduction": "weighted_mean", "confidence_power": 2.0, "confidence_threshold": 0.3},
    "balanced": {"balance": True, "weighting": "concave", "return_stats": True},
    "each pixel": {"reduction": "none", "balance": True, "return_stats": True},
    "upsampled": {"size": (9, 17), "return_stats": True},
}


class Watched(TorchDispatchMode):
    """Counts the operators of ours that run."""

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fpl_fast":
            self.operators.append(func.__name__)
        return func(*args, **kwargs or {})


def flat(result, student):
    """Loss, statistics and gradient."""
    loss, *stats = result if isinstance(result, tuple) else (result,)
    return [loss, *(stats[0] if stats else ()), *torch.autograd.grad(2.0 * loss.sum(), student)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("keywords", CALLS.values(), ids=CALLS)
def test_both_paths_give_the_same_bits(engine, keywords, dtype):
    student, teacher = (2 * torch.randn(SHAPE, device=DEVICE) for _ in range(2))
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    direct = flat(fuzzy_positive_loss(student, teacher, engine=engine, **keywords), student)
    with Watched() as watched:
        traced = flat(fuzzy_positive_loss(student, teacher, engine=engine, **keywords), student)
    assert "fuzzy_positive_loss.default" in watched.operators
    for one, other in zip(direct, traced, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("engine", ["eager", "triton"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_paths_of_labels_give_the_same_bits(engine, reduction, dtype):
    student = torch.randn(SHAPE, device=DEVICE, dtype=dtype, requires_grad=True)
    target = torch.randint(0, 5, (2, 5, 13), device=DEVICE)
    direct = flat(cross_entropy(student, target, engine=engine, reduction=reduction), student)
    with Watched() as watched:
        traced = flat(cross_entropy(student, target, engine=engine, reduction=reduction), student)
    assert "cross_entropy_loss.default" in watched.operators
    assert all(torch.equal(one, other) for one, other in zip(direct, traced, strict=True))


@pytest.mark.parametrize("keywords", [{}, {"kind": "kl", "reduction": "sum", "size": (9, 17)}, {"reduction": "none"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_paths_of_consistency_give_the_same_bits(engine, keywords, dtype):
    student, teacher = (torch.randn(SHAPE, device=DEVICE, dtype=dtype) for _ in range(2))
    student.requires_grad_()
    direct = flat(consistency_loss(student, teacher, engine=engine, **keywords), student)
    with Watched() as watched:
        traced = flat(consistency_loss(student, teacher, engine=engine, **keywords), student)
    assert any(name.startswith("consistency_") for name in watched.operators)
    assert all(torch.equal(one, other) for one, other in zip(direct, traced, strict=True))


def test_what_must_find_an_operator():
    x = torch.randn(SHAPE, device=DEVICE)
    assert not gradient.is_traced(x, None, torch.nn.Parameter(x))
    assert gradient.is_traced(x, x.as_subclass(type("Subclass", (torch.Tensor,), {})))
    with FakeTensorMode():
        assert gradient.is_traced(x)
    found = []
    torch.func.vmap(lambda y: found.append(gradient.is_traced(y)) or y)(x)
    torch.compile(lambda y: y + gradient.is_traced(y), backend=lambda graph, _: found.append(graph) or graph)(x)
    assert found[0] and any(node.target is operator.add and node.args[1] is True for node in found[1].graph.nodes)


@pytest.mark.parametrize("engine", ["eager", "triton"])
def test_the_negative_bit_is_resolved(engine):
    """The imaginary part of a conjugate is a view of memory that holds its negative."""
    negative = torch.randn(*SHAPE, 2, device=DEVICE)
    x, plain = torch.view_as_complex(negative).conj().imag, -negative[..., 1]
    other, label = (
        torch.randn(SHAPE, device=DEVICE),
        torch.zeros(SHAPE[0], *SHAPE[2:], dtype=torch.int64, device=DEVICE),
    )
    assert x.is_neg() and not plain.is_neg()
    for call in (
        lambda y: fuzzy_positive_loss(y, other, engine=engine),
        lambda y: fuzzy_positive_loss(other, y, engine=engine),
        lambda y: cross_entropy(y, label, engine=engine),
        lambda y: consistency_loss(y, other, engine=engine),
        lambda y: consistency_loss(other, y, engine=engine),
    ):
        torch.testing.assert_close(call(x), call(plain), rtol=0, atol=0)


def test_meta_tensors_have_a_backward():
    """Shapes alone, to count or to plan."""
    student = torch.empty(SHAPE, device="meta", requires_grad=True)
    label = torch.empty(SHAPE[0], *SHAPE[2:], dtype=torch.int64, device="meta")
    teacher = student.detach()
    losses = fuzzy_positive_loss(student, teacher, balance=True), consistency_loss(student, teacher)
    for loss in (*losses, cross_entropy(student, label)):
        (gradient_,) = torch.autograd.grad(loss, student)
        assert gradient_.is_meta and gradient_.shape == student.shape


def test_loss_and_statistics_may_be_written_to():
    """``loss /= n``, and a reduction of statistics over processes, before the backward."""
    student = torch.randn(SHAPE, device=DEVICE, requires_grad=True)
    teacher = torch.randn(SHAPE, device=DEVICE)
    loss, stats = fuzzy_positive_loss(student, teacher, balance=True, return_stats=True)
    (expected,) = torch.autograd.grad(loss, student, retain_graph=True)
    loss /= 2
    for x in stats:
        x.fill_(-1.0)
    assert torch.equal(torch.autograd.grad(loss, student)[0], expected / 2)


STUB = """
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Device:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

class Launched(CompiledKernel):
    function, packed_metadata, module = 0, (), None
    def __init__(self, name): self._run = lambda *a: launches.append((name, a[:3], a[9:]))
    def _init_handles(self): pass
    def launch_metadata(self, *a): return None

def compile_nothing(kernel, key, signature, device, *_, **__):
    compiled.append(kernel.fn.__name__)
    kernel.device_caches[device][0][key] = found = Launched(kernel.fn.__name__)
    return found

launches, compiled = [], []
driver.set_active(Device())
JITFunction._do_compile = compile_nothing
from fpl_fast import consistency_loss, cross_entropy, fuzzy_positive_loss
from fpl_fast.engines import choice
from fpl_fast.kernels import mean_scale, scale
from fpl_fast.ops import gradient
choice._refusal = lambda *_: None
gradient.scale_ = scale.scale_

def told(x):
    if isinstance(x, torch.Tensor):
        return (x.dtype, tuple(x.shape), x.stride())
    if isinstance(x, tuple):
        return tuple(map(told, x))
    return getattr(x, "value", x)

def run(call, *inputs):
    launches.clear()
    student = inputs[0].detach().requires_grad_()
    loss = call(student, *inputs[1:])
    loss = loss[0] if isinstance(loss, tuple) else loss
    torch.autograd.grad(loss.sum() if loss.dim() else loss, student)
    return [(name, grid, told(arguments)) for name, grid, arguments in launches]
"""
COUNTS = """
MOVE_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "ones_like"}
MOVE_NOTHING |= {"view", "detach", "unbind", "select", "narrow", "slice", "as_strided"}
z, t = torch.randn(2, 19, 4, 6), torch.randn(2, 19, 4, 6)
y = torch.zeros(2, 4, 6, dtype=torch.int64)
m = y == 0
mean_scale.mean_scale(m)  # the first one makes a counter
for call, others in (
    (lambda z, t: fuzzy_positive_loss(z, t, engine="triton"), (t,)),
    (lambda z, t: fuzzy_positive_loss(z, t, engine="triton", balance=True, return_stats=True), (t,)),
    (lambda z, y: cross_entropy(z, y, engine="triton", reduction="sum"), (y,)),
    (lambda z, t: consistency_loss(z, t, engine="triton"), (t,)),
    (lambda z, t: fuzzy_positive_loss(z, t, engine="triton", valid_mask=m, balance=True, return_stats=True), (t,)),
    (lambda z, y: cross_entropy(z, y, engine="triton"), (y,)),
    (lambda z, t: consistency_loss(z, t, engine="triton", valid_mask=m), (t,)),
):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        names = [name for name, *_ in run(call, z, *others)]
    operations = {event.key.split("::")[1] for event in profiler.key_averages() if event.key.startswith("aten::")}
    print(*names, *sorted(operations - MOVE_NOTHING))
"""
REPLAYS = """
from fpl_fast.kernels import finish, full_resolution, mean_scale, scale, upsampled
upsampled.BUFFER_BYTES = 1  # a launch for every image
def forget():
    full_resolution._REPLAYS.clear()
    upsampled._PLANS.clear()
    for module in (finish, mean_scale, scale):
        module._LAUNCHES._kernels.clear()
z, t, w = torch.randn(2, 19, 4, 8), torch.randn(2, 19, 4, 8), torch.rand(2, 4, 8)
y, one = torch.zeros(2, 4, 8, dtype=torch.uint8), torch.rand(19)
fuzzy = lambda **k: lambda z, t: fuzzy_positive_loss(z, t, engine="triton", **k)
calls = [fuzzy(), fuzzy(threshold=0.5), fuzzy(threshold=1), fuzzy(max_positives=3), fuzzy(max_positives=16)]
calls += [fuzzy(valid_mask=w > 0.5), fuzzy(pixel_weight=w), fuzzy(threshold=w), fuzzy(confidence_power=2.0)]
calls += [fuzzy(partner_logits=t, mix_mask=w > 0.5), fuzzy(weighting="concave"), fuzzy(form="hinge", reduction="sum")]
calls += [fuzzy(return_stats=True), fuzzy(reduction="weighted_mean"), fuzzy(reduction="none", balance=True)]
labels = lambda **k: lambda z, t: cross_entropy(z, y, engine="triton", **k)
calls += [labels(), labels(weight=one, pixel_weight=w), labels(ignore_index=3), labels(ignore_index=-1)]
calls += [labels(reduction="none")]
size, large = (9, 16), torch.rand(2, 9, 16)
calls += [fuzzy(size=size), fuzzy(size=size, align_corners=False, threshold=0.5), fuzzy(size=(4, 9))]
calls += [fuzzy(size=size, valid_mask=large > 0.5, pixel_weight=large), fuzzy(size=size, max_positives=16)]
calls += [fuzzy(size=size, threshold=large, balance=True), fuzzy(size=size, reduction="none", form="hinge")]
calls += [lambda z, t: fuzzy(size=size, partner_logits=t + 1, mix_mask=large > 0.5)(z, t)]
target = torch.zeros(2, 9, 16, dtype=torch.uint8)
targets = lambda **k: lambda z, t: cross_entropy(z, target, size=size, engine="triton", **k)
calls += [targets(), targets(weight=one, pixel_weight=large), targets(ignore_index=3)]
distance = lambda **k: lambda z, t: consistency_loss(z, t, engine="triton", **k)
calls += [distance(), distance(kind="kl", pixel_weight=w), distance(valid_mask=w > 0.5, reduction="none")]
calls += [distance(partner_logits=t, mix_mask=w > 0.5, reduction="sum"), distance(kind="kl", size=size)]
calls += [distance(size=size, valid_mask=large > 0.5), distance(size=(4, 9), reduction="none")]
half = lambda x: x.half()
rows = lambda x: x.contiguous(memory_format=torch.channels_last)
apart = lambda x: torch.cat([x.flatten(), x.flatten()[:1]])[1:].view_as(x)  # no pointer of 16 bytes
turned = lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)
given = [(z, t), (half(z), t), (rows(z), rows(t)), (apart(z), apart(t)), (turned(z), t), (z, turned(t))]
given += [(z[:1], t[:1]), (z[:, :5], t[:, :5])]
slowly = []
for call in calls:
    for z, t in given:
        if z.shape == (2, 19, 4, 8):
            forget()
            slowly.append(run(call, z, t))
forget()
for times in range(2):  # each among all the others, and in the second round repeated
    number, before = 0, len(compiled)
    for call in calls:
        for z, t in given:
            if z.shape == (2, 19, 4, 8):
                found = run(call, z.clone() if times and z.data_ptr() % 16 == 0 and z.is_contiguous() else z, t)
                assert found == slowly[number], (number, found, slowly[number])
                number += 1
assert len(compiled) == before
assert all(len(module._LAUNCHES._kernels) > 2 for module in (finish, mean_scale, scale))
assert len(full_resolution._REPLAYS) > len(calls)
leaves = lambda x: [y for z in x for y in leaves(z)] if isinstance(x, tuple) else [x]
kept = [x for replay in full_resolution._REPLAYS.values() for x in leaves(replay.arguments)]
assert len(upsampled._PLANS) > 8
for plan in upsampled._PLANS.values():  # the tables of an axis are not of the call
    own = plan.forward_arguments | {"rows": None}, plan.adjoint_arguments
    kept += [x for arguments in own for x in leaves(tuple((arguments | {"columns": None}).values()))]
assert kept and not any(isinstance(x, torch.Tensor) for x in kept)
print(number)
"""

WIDE = """
z, y = torch.randn(2, 5, 4, 8), torch.zeros(2, 9, 16, dtype=torch.int64)
for size, label in (((9, 16), y), (None, y[:, :4, :8].contiguous())):
    for ignored in (255, 254, 2**31, -2**40):
        before = len(compiled)
        run(lambda z, t: cross_entropy(z, label, size=size, ignore_index=ignored, engine="triton"), z, z)
        print(*sorted(set(compiled[before:])))
"""


def run_stub(script):
    """In a process of its own: here the interpreter may have been chosen."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", STUB + script]
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_launches_of_a_call():
    """Four with the fill, which is autograd's, of its first gradient; nothing else moves data.

    One more counts the pixels where a mask or labels decide on them.
    """
    assert run_stub(COUNTS).splitlines() == [
        "fuzzy_positive_kernel finish_kernel scale_kernel fill_",
        "fuzzy_positive_kernel finish_kernel scale_kernel fill_",
        "cross_entropy_kernel finish_kernel scale_kernel fill_",
        "consistency_kernel finish_kernel scale_kernel fill_",
        "mean_scale_kernel fuzzy_positive_kernel finish_kernel scale_kernel fill_",
        "mean_scale_kernel cross_entropy_kernel finish_kernel scale_kernel fill_",
        "mean_scale_kernel consistency_kernel finish_kernel scale_kernel fill_",
    ]


def test_a_repeated_launch_is_the_launch():
    """With every argument that Triton would have been given, for all kinds of tensors in turn."""
    assert run_stub(REPLAYS).split() == ["228"]


def test_a_wide_label_to_ignore_is_a_type_of_its_own():
    """A launch that was compiled for int32 would take its lower half."""
    assert run_stub(WIDE).splitlines() == [
        "column_adjoint_kernel finish_kernel mean_scale_kernel scale_kernel upsampled_kernel",
        "",
        "mean_scale_kernel upsampled_kernel",
        "",
        "cross_entropy_kernel",
        "",
        "cross_entropy_kernel",
        "",
    ]
