"""The emulator of PTX: what it finds in short programs, its arithmetic, and the kernels in its quick cases."""

import random
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_server import python
from ptx import device, floats, kernels, launches
from ptx.machine import Machine
from ptx.memory import Memory
from ptx.parser import parse
from ptx.program import Fault, Unsupported

NUM_THREADS = 64
# Each thread's address in global memory in %rd2 and in shared memory in %r3, four bytes further than the last one's.
PROGRAM = """
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0
)
.reqntid 64
{
    .reg .pred %p<4>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    .loc 1 7 3
    ld.param.b64 %rd1, [kernel_param_0];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd2, %rd1, %rd3;
    shl.b32 %r2, %r1, 2;
    mov.b32 %r3, global_smem;
    add.s32 %r3, %r3, %r2;
    setp.lt.u32 %p1, %r1, 32;
    BODY
    ret;
}
"""


def launch(body, data=None, seed=0, salt=0, together=1, mutable=True):
    """Run a body over a tensor of a number for each thread; returns the tensor."""
    program = parse(PROGRAM.replace("BODY", body))
    data = torch.zeros(NUM_THREADS, dtype=torch.int32) if data is None else data
    memory = Memory()
    storage = memory.add(data.numpy().view(np.uint8), "data")
    storage.readable[:] = True
    storage.writable[:] = mutable
    values = {"kernel_param_0": storage.base}
    machine = Machine(program, 4 * NUM_THREADS, NUM_THREADS)
    settings = {"seed": seed, "salt": salt, "together": together, "races": True}
    machine.launch((1, 1, 1), values, memory, **settings)
    return data


MIRROR = """
    st.shared.b32 [%r3], %r1;
    BARRIER
    xor.b32 %r4, %r2, 252;
    mov.b32 %r5, global_smem;
    add.s32 %r4, %r4, %r5;
    ld.shared.b32 %r6, [%r4];
    st.global.b32 [%rd2], %r6;
"""


@pytest.mark.parametrize("together", [1, 2])
def test_threads_meet_at_a_barrier(together):
    found = launch(MIRROR.replace("BARRIER", "bar.sync 0;"), seed=random.randrange(100), together=together)
    assert torch.equal(found, torch.arange(NUM_THREADS, dtype=torch.int32).flip(0))


def test_branches_and_predicates():
    body = """
    @%p1 bra $low;
    add.s32 %r4, %r1, 1000;
    bra.uni $end;
$low:
    mul.lo.s32 %r4, %r1, -3;
$end:
    st.global.b32 [%rd2], %r4;
    @!%p1 st.global.b32 [%rd2], %r4;
    """
    i = torch.arange(NUM_THREADS, dtype=torch.int32)
    assert torch.equal(launch(body), torch.where(i < 32, -3 * i, i + 1000))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("st.global.b32 [%rd2+4], %r1;", "data at byte 256 of 256"),
        ("ld.global.b32 %r4, [%rd2+-4];", "outside of all memory"),
        ("st.global.v2.b32 [%rd2], {%r1, %r1};", "not aligned to 8 bytes"),
        ("st.global.b32 [%rd1], %r1;", "two threads write different values"),
        ("@%p1 st.global.b32 [%rd1], 1;\n@!%p1 st.global.b32 [%rd1], 2;", "writes data again with another value"),
        ("st.global.b32 [%rd2], %r1;\nld.global.b32 %r4, [%rd1];", "where another thread of the launch has written"),
        ("st.shared.b32 [%r3+4], %r1;", "shared memory at byte"),
        ("st.shared.b32 [%r3+2], %r1;", "shared address is not aligned"),
        (MIRROR.replace("BARRIER", ""), "race, (reads|writes) what another warp"),
        (MIRROR.replace("BARRIER", "bar.warp.sync -1;"), "race, (reads|writes) what another warp"),
        (
            "@%p1 st.shared.b32 [%r3+128], %r1;\n@!%p1 st.shared.b32 [%r3], %r1;",
            "race, writes what another warp writes",
        ),
        (
            "@%p1 ld.shared.b32 %r4, [%r3+128];\n@!%p1 st.shared.b32 [%r3], %r1;",
            "race, (reads|writes) what another warp",
        ),
        ("@%p1 bar.sync 0;", "a barrier that not all threads"),
        ("@%p1 bra $a;\nbar.sync 0;\n$a:\nbar.sync 0;", "wait at different barriers"),
        ("setp.lt.u32 %p2, %r1, 7;\n@%p2 shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;", "take part are elsewhere"),
    ],
)
def test_faults_are_found(body, message):
    with pytest.raises(Fault, match=message):
        for seed in range(4):  # orders of the warps, where only some show it
            launch(body, seed=seed)


def test_inputs_are_not_written():
    with pytest.raises(Fault, match="writes data at byte 0, which it may not"):
        launch("st.global.b32 [%rd2], %r1;", mutable=False)


@pytest.mark.parametrize(
    "body", ["st.global.b32 [%rd2], %r8;", "ld.shared.b32 %r4, [%r3];\nst.global.b32 [%rd2], %r4;"]
)
def test_what_nothing_has_written_is_nan(body):
    assert launch(body).view(torch.float32).isnan().all()


INTEGERS = {
    "bfe.s32 %r4, %r5, 3, 6;": lambda x: (x << 23) >> 26,
    "bfe.u32 %r4, %r5, 28, 9;": lambda x: (x >> 28) & 15,
    "bfe.u32 %r4, %r5, 32, 4;": lambda x: 0 * x,
    "bfe.u32 %r4, %r5, 0, 32;": lambda x: x,
    "mov.b64 %rd3, {%r5, %r5};\nbfe.u64 %rd3, %rd3, 24, 16;\ncvt.u32.u64 %r4, %rd3;": lambda x: (
        ((x >> 24) & 255) | ((x & 255) << 8)
    ),
    "mov.b64 %rd3, {%r5, %r5};\nbfe.u64 %rd3, %rd3, 36, 64;\ncvt.u32.u64 %r4, %rd3;": lambda x: (x >> 4) & (2**28 - 1),
    "shr.s32 %r4, %r5, 40;": lambda x: x >> 31,
    "shf.l.wrap.b32 %r4, %r5, %r5, 9;": lambda x: (x << 9) | ((x >> 23) & 511),
    "prmt.b32 %r4, %r5, 0, 0x0123;": lambda x: torch.from_numpy(x.numpy().byteswap()),
    "rem.s32 %r4, %r5, -1000;": lambda x: torch.fmod(x, -1000),
    "div.s32 %r4, %r5, -1000;": lambda x: torch.div(x, -1000, rounding_mode="trunc"),
    "lop3.b32 %r4, %r5, 85, 13, 0x96;": lambda x: x ^ 85 ^ 13,
    "cvt.s32.s8 %r4, %r5;": lambda x: x.to(torch.int8).int(),
    "popc.b32 %r4, %r5;": lambda x: torch.tensor([(v & 0xFFFFFFFF).bit_count() for v in x.tolist()], dtype=torch.int32),
}


@pytest.mark.parametrize("instruction", INTEGERS)
def test_integers(instruction):
    x = torch.randint(-(2**31), 2**31, (NUM_THREADS,)).int()
    found = launch(f"ld.global.b32 %r5, [%rd2];\n{instruction}\nst.global.b32 [%rd2], %r4;", x.clone())
    assert torch.equal(found, INTEGERS[instruction](x))


FLOATS = {
    "fma.rn.f32 %r4, %r5, 0f40400000, %r5;": lambda x: 4 * x,
    "max.f32 %r4, %r5, 0f00000000;": lambda x: x.clamp(min=0),
    "neg.f32 %r4, %r5;": lambda x: -x,
    "div.full.f32 %r4, %r5, 0f40400000;": lambda x: x / 3,
    "cvt.rni.f32.f32 %r5, %r5; ex2.approx.ftz.f32 %r4, %r5;": lambda x: torch.ldexp(torch.ones(()), x.round()),
    "cvt.rn.bf16x2.f32 %r4, %r5, 0f00000000;": lambda x: x.bfloat16().float(),
    "cvt.rzi.s32.f32 %r4, %r5;": lambda x: x.int(),
}


@pytest.mark.parametrize("instruction", FLOATS)
def test_floats(instruction):
    x = torch.randn(NUM_THREADS) * 8
    body = f"ld.global.b32 %r5, [%rd2];\n{instruction}\nst.global.b32 [%rd2], %r4;"
    found = launch(body, x.view(torch.int32).clone())
    assert torch.equal(found, FLOATS[instruction](x).view(torch.int32))


APPROXIMATE = {
    "ex2.approx.f32": (torch.exp2, 2.0**-22),
    "lg2.approx.f32": (torch.log2, 2.0**-22),
    "div.full.f32": (lambda x: x / 3, 2.0**-22),
}


@pytest.mark.parametrize("instruction", APPROXIMATE)
def test_approximations_are_off_within_their_bounds(instruction):
    function, bound = APPROXIMATE[instruction]
    x = 1 + torch.rand(NUM_THREADS)
    operands = "%r4, %r5, 0f40400000" if instruction.startswith("div") else "%r4, %r5"
    body = f"ld.global.b32 %r5, [%rd2];\n{instruction} {operands};\nst.global.b32 [%rd2], %r4;"
    exact, other, same = (launch(body, x.view(torch.int32).clone(), salt=salt) for salt in (0, 7, 7))
    exact, other, same = (y.view(torch.float32) for y in (exact, other, same))
    assert torch.equal(other, same) and not torch.equal(other, exact)
    error = (other.double() - function(x.double())).abs() / function(x.double()).clamp(min=1)
    assert 0 < error.max() <= bound + 2.0**-24  # and what it is rounded by


def test_fused_multiply_adds_are_rounded_once():
    """A sum of double precision may fall between two float32."""
    x, y, z = np.float32(np.exp2(np.random.default_rng(torch.initial_seed()).integers(-30, 30, (3, 300)) / 1.3))
    exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in zip(x, y, z, strict=True)]
    found = floats.fma32(x, y, z)
    for step in (-np.inf, np.inf):  # no neighbour is nearer
        other = np.nextafter(found, np.float32(step))
        gaps = [
            (abs(Fraction(float(f)) - e), abs(Fraction(float(o)) - e))
            for f, o, e in zip(found, other, exact, strict=True)
        ]
        assert all(own <= neighbours for own, neighbours in gaps)
    assert [float(e) for e in exact] == floats.fma64(*(v.astype(np.float64) for v in (x, y, z))).tolist()


def test_an_unknown_directive_is_refused():
    with pytest.raises(Unsupported, match="no such directive"):
        parse(PROGRAM.replace("BODY", ".branchtargets a;"))


def test_every_launched_kernel_says_what_it_writes():
    assert kernels.launched_kernels() == launches.OUTPUTS.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "argument --jobs: must be a number of processes from 1, got 0"),
        (["--jobs", "many"], "argument --jobs: must be a number of processes from 1, got many"),
        (["--only", "nothing"], "--only must be a part of a case's name, such as C=5 or labels, got 'nothing'"),
        (["--quick", "--only", "C=300"], "--only must be a part of a quick case's name, such as C=5 or labels, got"),
    ],
)
@pytest.mark.skipif(device.unavailable_reason() is not None, reason="needs the ptxas that Triton compiles with")
def test_wrong_options_of_the_command(options, message):
    done = python(str(Path(__file__).with_name("emulate.py")), *options)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(device.unavailable_reason() is not None, reason="needs the ptxas that Triton compiles with")
def test_workers_end_with_the_command_that_is_killed():
    command = [sys.executable, str(Path(__file__).with_name("emulate.py")), "--only", "C=5 bf16", "--arch", "sm_80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("ok")  # a worker has worked
        process.kill()
        process.communicate(timeout=60)  # which ends when no process holds the other end of the pipe


@pytest.mark.slow
@pytest.mark.skipif(device.unavailable_reason() is not None, reason="needs the ptxas that Triton compiles with")
def test_kernels_and_defects():
    """A small case of every kind, and all defects, each on one of two architectures; new inputs at every seed."""
    command = str(Path(__file__).with_name("emulate.py"))
    options = ["--quick", "--split", "--mutations", "--arch", "sm_80", "sm_90", "--seed", str(torch.initial_seed())]
    done = python(command, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^\| `(\w+)` \|", done.stdout, re.M)) == kernels.launched_kernels()
    assert set(re.findall(r"^ok   (sm_\d+) ", done.stdout, re.M)) == {"sm_80", "sm_90"}
