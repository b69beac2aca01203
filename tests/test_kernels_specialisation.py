"""Variants of the kernels that Triton would compile for images of many sizes: as few as alignment asks for."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
import triton

from fpl_fast.kernels.device.scale import scale_kernel
from fpl_fast.kernels.specialisation import register_limit, wave_limit

# Crops of recipes, whole images, and sizes that divide by 16, by smaller powers of two, or not at all.
SIZES = [*((side, side) for side in (256, 320, 321, 400, 480, 505, 512, 513, 640, 713, 769, 800, 801, 1024))]
SIZES += [(366, 500), (333, 500), (375, 500), (374, 500), (500, 281), (512, 1024), (769, 1537), (360, 480), (37, 53)]

LAUNCH = """
import collections, functools, itertools, json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import create_function_from_signature
from fpl_fast.kernels import consistency, context, cross_entropy, fuzzy_positive, scale
from fpl_fast.kernels.arguments import ContextOptions, LabelInputs, LossInputs, LossOptions
from fpl_fast.kernels.arguments import PseudoLabelOptions, TeacherInputs
from fpl_fast.kernels.pseudo_labels import pseudo_labels

backend = CUDABackend(GPUTarget("cuda", 90, 32))
variants = collections.defaultdict(set)

@functools.cache
def binder(kernel):
    return create_function_from_signature(kernel.signature, kernel.params, backend)

def specialise_only(kernel, *args, grid, warmup, **keywords):
    _, specialisation, options = binder(kernel)(*args, **keywords)
    variants[*case, call, kernel.fn.__name__].add(repr((specialisation, options)))

triton.JITFunction.run = specialise_only
options = LossOptions(0.9, 3, "concave", 1.0, "smooth")
keywords = {"scale": torch.ones(()), "with_grad": True}
cases, sizes = map(json.loads, sys.argv[1:])
for case, (height, width), masked in itertools.product(cases, sizes, (True, False)):
    num_classes, ratio, channels_last = case
    align_corners = width % 2 == 1
    n, full = 2, (height, width)
    low = full if ratio == 1 else (-(-height // ratio), -(-width // ratio))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    z = torch.empty((n, num_classes, *low), dtype=torch.bfloat16, memory_format=layout)
    mask, weight = torch.empty((n, *full), dtype=torch.bool), torch.empty((n, *full))
    label = torch.empty((n, *full), dtype=torch.uint8)
    kept = (z, mask, weight, mask, weight) if masked else (None,) * 5
    size = None if ratio == 1 else full
    masks = "masked" if masked else "plain"
    call = masks + " fuzzy positive"
    inputs = LossInputs(z, z, *kept, size, align_corners)
    fuzzy_positive.fuzzy_positive_sums(inputs, options, with_stats=True, **keywords)
    call = masks + " mse"
    consistency.consistency_sums(inputs._replace(threshold=None), "mse", **keywords)
    call = masks
    labels = LabelInputs(z, label, None, weight if masked else None, 255, size, align_corners)
    cross_entropy.cross_entropy_sums(labels, **keywords)
    teacher = TeacherInputs(z, z if masked else None, *([mask, mask] if masked else [None] * 2), size, align_corners)
    context.adaptive_threshold(teacher, ContextOptions((0.8, 0.9), 5, 3))
    pseudo_labels(teacher, PseudoLabelOptions(0.9, 3))
    scale.scale_(z, torch.ones(()))
print(json.dumps([(*name, len(found)) for name, found in variants.items()]))
"""


def test_few_variants_serve_all_sizes():
    cases = list(itertools.product((19, 150), (1, 4, 8), (False, True)))  # classes, ratio of the sizes, channels_last
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = [sys.executable, "-c", LAUNCH, json.dumps(cases), json.dumps(SIZES)]
    output = subprocess.run(script, check=True, env=environment, capture_output=True, text=True).stdout
    found = {tuple(name): count for *name, count in json.loads(output)}
    assert len(found) == 2 * 2 * 2 * (7 + 2 * 10)
    for (num_classes, ratio, _, call, kernel), count in found.items():
        # Aligned planes and others. With an even number of classes an image may be aligned where its planes are not.
        most = 2 if num_classes % 2 else 3
        if ratio > 1 and kernel != "scale_kernel":
            most = 1  # a thread's column is as wide as its type, aligned or not
        assert count <= most, (num_classes, ratio, call, kernel)


@pytest.mark.parametrize("hip", [None, "7.0"])
def test_a_limit_of_registers_is_an_option_of_the_compiler_that_knows_it(monkeypatch, hip):
    monkeypatch.setattr(torch.version, "hip", hip)
    compiled = triton.JITFunction(scale_kernel.fn)
    assert register_limit(compiled, 128) == ({} if hip else {"maxnreg": 128})
    assert wave_limit(compiled, 2) == ({"waves_per_eu": 2} if hip else {})
    assert register_limit(compiled, None) == wave_limit(compiled, None) == {}
    interpreted = object()
    assert register_limit(interpreted, 128) == wave_limit(interpreted, 2) == {}
