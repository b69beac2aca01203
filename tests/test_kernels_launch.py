"""Launches as Triton takes them on a GPU, up to the device itself: bound, specialised and compiled."""

import os
import subprocess
import sys

import pytest

LAUNCH = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime.jit import create_function_from_signature
from fpl_fast.kernels import consistency, context, cross_entropy, finish, fuzzy_positive, mean_scale, scale
from fpl_fast.kernels.arguments import ContextOptions, LabelInputs, LossInputs, LossOptions
from fpl_fast.kernels.arguments import PseudoLabelOptions, TeacherInputs
from fpl_fast.kernels.pseudo_labels import pseudo_labels
from fpl_fast.kernels.statistics import Finish

TARGET = GPUTarget("cuda", 90, 32)
launched = []

def compile_only(kernel, *args, grid, warmup, **keywords):
    backend = CUDABackend(TARGET)
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *args, **keywords)
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    triton.compile(ASTSource(kernel, signature, constants, attributes), target=TARGET, options=options.__dict__)
    launched.append(kernel.fn.__name__)

triton.JITFunction.run = compile_only
z, weight = torch.randn(2, 3, 4, 6), torch.rand(2, 4, 6)
options = LossOptions(0.9, 2, "convex", 4.0, "smooth", 0.1, 2.0)
keywords = {"scale": torch.ones(()), "with_grad": True}
size = (4, 6) if sys.argv[1] == "upsampled" else None
masked = LossInputs(z, z.bfloat16(), z.bfloat16(), weight > 0.5, weight, weight > 0.1, weight, size)
for inputs in (LossInputs(z, z, size=size), masked):
    fuzzy_positive.fuzzy_positive_sums(inputs, options, with_stats=True, **keywords)
fuzzy_positive.fuzzy_positive_map(inputs, options)
labels = LabelInputs(z, torch.zeros(2, 4, 6, dtype=torch.uint8), torch.rand(3), weight, size=size)
cross_entropy.cross_entropy_sums(labels, **keywords)
cross_entropy.cross_entropy_map(labels)
for kind in ("mse", "kl"):
    consistency.consistency_sums(masked._replace(threshold=None), kind, **keywords)
consistency.consistency_map(LossInputs(z, z, size=size), "mse")
fuzzy_positive.fuzzy_positive_sums(LossInputs(z, z), options, scale=0.5, with_grad=True, with_stats=False)
for todo in (Finish(0.5), Finish(torch.ones(()), True, True, True, True)):
    finish.finish(torch.ones(12, 5), todo, 48)
mean_scale.mean_scale(weight > 0.5)
mean_scale.mean_scale(labels.target.long(), -1)
scale.scale_(z, torch.ones(()))
scale.scale_(z, torch.ones(()), torch.ones(()))
for mixed in ((z, None, None, None), (z.bfloat16(), z.bfloat16(), weight > 0.5, weight > 0.1)):
    context.adaptive_threshold(TeacherInputs(*mixed, size), ContextOptions((0.8, 0.9), 5, 2))
    for threshold in (None, 0.9):
        pseudo_labels(TeacherInputs(*mixed, size), PseudoLabelOptions(threshold, 2))
print(*launched)
"""
TEACHER = ["ranks_kernel", "context_kernel", *["pseudo_labels_kernel"] * 2] * 2
ENDS = ["fuzzy_positive_kernel", *["finish_kernel"] * 2, *["mean_scale_kernel"] * 2, *["scale_kernel"] * 2]
FULL = ["fuzzy_positive_kernel"] * 3 + ["cross_entropy_kernel"] * 2 + ["consistency_kernel"] * 3 + [*ENDS, *TEACHER]
GRADIENT = ["upsampled_kernel", "column_adjoint_kernel"]
UPSAMPLED = [*GRADIENT, *GRADIENT, "upsampled_kernel", *GRADIENT, "upsampled_kernel", *GRADIENT, *GRADIENT]
UPSAMPLED += ["upsampled_kernel", *ENDS, *TEACHER]


@pytest.mark.parametrize(("kind", "kernels"), [("full", FULL), ("upsampled", UPSAMPLED)])
def test_every_launch_compiles(kind, kernels):
    """In a process of its own: the interpreter, once chosen, stays for the whole process, with rules of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = [sys.executable, "-c", LAUNCH, kind]
    assert subprocess.run(script, check=True, env=environment, capture_output=True, text=True).stdout.split() == kernels
