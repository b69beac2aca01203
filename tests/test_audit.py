import os
import subprocess
import sys
from typing import ClassVar

import pytest

from fpl_fast.bench.audit.occupancy import DEVICES, num_programs, resident_programs
from fpl_fast.bench.audit.sass import Instruction, large_loops, pipe_counts, pixel_path, whole_path
from fpl_fast.bench.audit.sources import Case
from fpl_fast.bench.audit.table import Row, baseline_path, default_cases, load, regressions, render, save
from fpl_fast.bench.audit.widths import access_bits
from fpl_fast.kernels.device.operands import Pixels

CASE = Case(num_classes=19, dtype="bf16", layout="nchw", capped=True, target="sm_80")
PIPES = {"alu": 400.0, "fma": 300.0, "mufu": 80.0, "lsu": 50.0, "other": 20.0}
ROW = Row(CASE, 150, 0, 16, 850.0, 850.0, PIPES, {"student": 32, "grad": 32}, 12, 20.7, 0.5)
BASELINES = [baseline_path(version) for version in ("3.6.0", "3.8.0")]  # the oldest that is measured, and the newest


def instructions(*lines):
    return [Instruction(16 * i, *line) for i, line in enumerate(lines)]


def run_compiled(script, *arguments):
    """Run Python in a process of its own: the interpreter, once chosen, stays for the whole process."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=environment)


def test_kernels_compile_without_spills(tmp_path):
    script = (
        "import pathlib, sys; from fpl_fast.bench.audit.table import Case, audit, save;"
        "targets = ('sm_80', 'sm_90', 'gfx942');"
        "cases = [Case(c, 'bf16', 'nchw', True, target) for c in (19, 21) for target in targets];"
        "cases += [Case(19, 'bf16', 'nchw', True, 'sm_90', 'upsampled', stats=False)];"
        "cases += [Case(19, 'bf16', 'nchw', True, 'sm_90', kernel) for kernel in"
        "    ('upsampled pseudo labels', 'upsampled ranks', 'context')];"
        "cases += [Case(19, 'bf16', 'nchw', True, 'sm_90', kernel, stats=False) for kernel in ('mse', 'upsampled kl')];"
        "save(audit(cases), pathlib.Path(sys.argv[1]))"
    )
    run_compiled(script, str(tmp_path / "rows.json"))
    rows, version = load(tmp_path / "rows.json")
    assert len(rows) == 12
    for row in rows:
        assert row.spill_bytes == 0, row
        assert 0 < row.registers <= 255, row
        assert row.instructions is None or 0 < row.instructions < 1250, row
    if baseline_path(version).exists():  # another compiler, other counts
        assert regressions(rows, load(baseline_path(version))[0]) == []


def test_every_kind_of_launch_compiles():
    """Cases that only the compiler checks: absent and present pointers, arguments specialised to 1, both forms."""
    script = (
        "import triton, triton.language as tl; from triton.backends.compiler import GPUTarget;"
        "from fpl_fast.bench.audit.sources import FLOATS, MASK, WEIGHT, Case, kernel_source;"
        "from fpl_fast.kernels.arguments import LossOptions; from fpl_fast.kernels.device.operands import Classes;"
        "masks = {'pixel_weight': WEIGHT, 'valid_mask': MASK, 'threshold': WEIGHT};"
        "options = lambda number, weighting, form: LossOptions("
        "    'fp32', number, tl.constexpr(weighting), 'fp32', tl.constexpr(form), 'fp32', 'fp32');"
        "one_pixel = Classes('*fp32', 'i32', 1, 1, tl.constexpr(False));"
        "ones = dict.fromkeys(('student', 'teacher', 'grad'), one_pixel) | {'num_pixels': 1, 'blocks_per_image': 1};"
        "ones |= {'loss_options': options(1, 'none', 'hinge'), 'CAPPED': 1};"
        "pixel_map = {'map_ptr': FLOATS, 'sums_ptr': None, 'grad': None, 'scale_ptr': None};"
        "pixel_map |= {'loss_options': options('i32', 'linear', 'smooth')};"
        "rows = Classes('*fp16:16', 'i32:16', 1, 'i32', tl.constexpr(False));"
        "rows = {'grad': rows, 'teacher': rows, 'loss_options': options('i32:16', 'convex', 'smooth')};"
        "compile = lambda case, changes: triton.compile("
        "    kernel_source(case, **masks, **changes), target=GPUTarget('cuda', 90, 32));"
        "compile(Case(2, 'fp32', 'nchw', True, 'sm_90'), ones);"
        "compile(Case(5, 'bf16', 'nchw', False, 'sm_90'), pixel_map);"
        "compile(Case(6, 'fp16', 'channels_last', False, 'sm_90'), rows);"
        "compile(Case(36, 'fp32', 'channels_last', False, 'sm_90'), {})"
    )
    run_compiled(script)


def test_losses_with_labels_and_adjoints_compile():
    """The kernels that the audit does not count."""
    script = (
        "import triton, triton.language as tl; from triton.backends.compiler import GPUTarget;"
        "from fpl_fast.bench.audit.sources import AXIS, FLOATS, WEIGHT, specialise;"
        "from fpl_fast.kernels.device.column_adjoint import column_adjoint_kernel;"
        "from fpl_fast.kernels.device.cross_entropy import cross_entropy_kernel;"
        "from fpl_fast.kernels.device.operands import Classes, Pixels, Samples;"
        "from fpl_fast.kernels.device.scale import scale_kernel;"
        "from fpl_fast.kernels.device.upsampled import upsampled_kernel;"
        "pointers = ('class_weight_ptr', 'scale_ptr', 'sums_ptr', 'map_ptr', 'buffer_ptr');"
        "common = dict.fromkeys(pointers, FLOATS) | {'pixel_weight': WEIGHT, 'FAST': True, 'scale': None};"
        "logits = lambda rows: Classes('*bf16:16', 'i32:16', 'i32', 'i32', tl.constexpr(rows));"
        "samples = Samples('*bf16:16', 'i32:16', 'i32:16', 'i32:16', 1);"
        "dense = common | {'logits': logits(True), 'grad': logits(True), 'C': 19, 'G': 1, 'BLOCK': 128};"
        "tiles = common | {'logits': logits(False), 'grad': logits(False), 'C': 60, 'G': 2, 'BLOCK': 64};"
        "absent = ('teacher', 'partner_ptr', 'mix_mask', 'valid_mask', 'threshold', 'loss_options');"
        "absent += ('CAPPED', 'CONFIDENCE', 'DISTANCE');"
        "up = dict.fromkeys(absent) | {'student': samples, 'rows': AXIS, 'columns': AXIS, 'NUM_TERMS': 3};"
        "up |= {'KEY': tl.constexpr('float32')};"
        "build = lambda kernel, arguments, target=None: triton.compile("
        "    specialise(kernel, arguments | {'target': Pixels(target, 'i32', 'i32')}),"
        "    target=GPUTarget('cuda', 90, 32));"
        "build(cross_entropy_kernel, dense, '*u8');"
        "build(cross_entropy_kernel, tiles | {'map_ptr': None}, '*i64');"
        "build(upsampled_kernel, dense | up | {'BLOCK': 32}, '*i32');"
        "build(upsampled_kernel, tiles | up | {'buffer_ptr': None}, '*i64');"
        "down = {'grad': samples, 'columns': AXIS, 'C': 19, 'CLASSES': 10, 'BLOCK': 32, 'SPAN': 8};"
        "build(column_adjoint_kernel, common | down);"
        "scaled = {'grad_ptr': '*bf16:16', 'upstream_ptr': FLOATS, 'factor_ptr': FLOATS, 'BLOCK': 4096};"
        "build(scale_kernel, scaled)"
    )
    run_compiled(script)


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_baseline_covers_the_table(path):
    rows, version = load(path)
    assert [row.case for row in rows] == default_cases()
    assert baseline_path(version) == path
    for row in rows:
        case = row.case
        if case.num_classes < 33 and case.target != "gfx942":
            limited = getattr(case.config, "max_registers", None) is not None
            # A limit of registers is worth a few spills on rare paths, for which more warps are resident (ADR 13).
            rare = not case.capped or case.layout != "nchw" or case.odd or case.cutmix
            assert row.spill_bytes <= (144 if limited and rare else 0), row


def test_audit_refuses_the_interpreter(monkeypatch):
    from fpl_fast.bench.audit.table import audit

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        audit([CASE])


def test_save_and_load(tmp_path):
    amd = Row(CASE._replace(target="gfx942"), 113, 0, 16, *[None] * 7)
    save([ROW, amd], tmp_path / "rows.json")
    assert load(tmp_path / "rows.json")[0] == [ROW, amd]


@pytest.mark.parametrize(
    ("change", "num_worse"),
    [
        ({}, 0),
        ({"instructions": 870.0}, 0),
        ({"instructions": 880.0}, 1),
        ({"spill_bytes": 4, "registers": 160}, 2),
        ({"access_bits": {"student": 32, "grad": 16}}, 1),
    ],
)
def test_regressions(change, num_worse):
    assert len(regressions([ROW._replace(**change)], [ROW])) == num_worse


def test_a_row_without_a_baseline_is_a_regression():
    assert "not in the baseline" in regressions([ROW], [])[0]


def test_render():
    assert "| C=19 bf16 nchw capped sm_80 | 150 | 0 |" in render([ROW])
    assert ROW.predicted_roofline == 1.0
    assert ROW._replace(compute_over_memory=2.0).predicted_roofline == 0.5


def test_paths():
    code = instructions(
        (False, "LDG.E.64", " R2, [R4]"),
        (True, "BRA", " 0x70"),  # the optional path stands behind the exit
        (False, "BRA", " P1, 0x40"),
        (False, "MUFU.EX2", " R2, R2"),
        (False, "STG.E.U16", " [R4], R2"),
        (True, "EXIT", ""),
        (False, "EXIT", ""),
        (False, "FADD", " R2, R2, R3"),
        (True, "BRA", " 0x70"),
        (False, "BRA", " 0x20"),
        (False, "BRA", " 0xa0"),  # the trap behind every kernel
    )
    assert pixel_path(code, spread=None) == {"lsu": 2, "other": 4}
    assert whole_path(code, spread=None) == pipe_counts(code) == {"lsu": 2, "mufu": 1, "fma": 1, "other": 7}


def test_a_loop_over_pixels_in_a_loop_over_cells():
    pixel = [(False, "FADD", " R2, R2, R3")] * 200 + [(True, "BRA", f" {hex(16 * 110)}")]
    cell = [(False, "LDG.E", " R2, [R4]")] * 100 + [(True, "BRA", f" {hex(16 * 311)}")]
    code = instructions(
        *[(False, "MOV", " R1, R2")] * 9,
        *cell,  # 9 to 109
        *pixel,  # 110 to 310
        (False, "STG.E", " [R4], R2"),
        (True, "BRA", f" {hex(16 * 9)}"),
        (False, "EXIT", ""),
    )
    assert large_loops(code) == [range(110, 311), range(9, 313)]
    # an iteration of the inner loop, and a fourth of what the outer one has besides
    assert pixel_path(code, spread=4) == {"fma": 200, "other": 1 + 2 / 4, "lsu": 101 / 4}
    assert whole_path(code, spread=4) == {"fma": 200, "other": 1 + 2 / 4, "lsu": 101 / 4}


def test_a_jump_may_be_a_call_and_lead_to_a_nop():
    code = instructions(
        (False, "CALL.REL.NOINC", f" {hex(16 * 4)}"),  # which returns
        (True, "CALL.REL.NOINC", f" {hex(16 * 3)}"),
        (False, "BRA", " 0x0"),
        (False, "NOP", ""),
        (False, "EXIT", ""),
    )
    without = [instruction for instruction in code if instruction.opcode != "NOP"]
    assert pixel_path(without, spread=None) == {"other": 3}


def test_a_cell_row_counts_with_its_pixels():
    """A turn that has no pixels is shorter, and is not the one that counts."""
    code = instructions(
        (False, "MOV", " R1, R2"),
        (True, "BRA", f" {hex(16 * 304)}"),  # no pixels: neither the teacher's row nor the loop
        *[(False, "LDG.E", " R2, [R4]")] * 100,
        *[(False, "FADD", " R2, R2, R3")] * 201,  # 102 to 302
        (True, "BRA", f" {hex(16 * 102)}"),
        (False, "STG.E", " [R4], R2"),
        (True, "BRA", " 0x0"),
        (False, "EXIT", ""),
    )
    assert pixel_path(code, spread=4) == {"fma": 201, "alu": 1 / 4, "lsu": 101 / 4, "other": 1 + 2 / 4}


def test_a_cell_row_with_cutmix_passes_over_the_other_side():
    code = instructions(
        (False, "MOV", " R1, R2"),
        *[(False, "LDG.E.U8", " R2, [R4]")] * 3,  # the count: 1 to 4
        (True, "BRA", f" {hex(16 * 1)}"),
        (True, "BRA", f" {hex(16 * 308)}"),  # none on this side
        *[(False, "LDG.E", " R2, [R4]")] * 100,
        *[(False, "FADD", " R2, R2, R3")] * 201,  # 106 to 306
        (True, "BRA", f" {hex(16 * 106)}"),
        (True, "BRA", f" {hex(16 * 1)}"),  # 308: the other side
        (False, "STG.E", " [R4], R2"),
        (True, "BRA", " 0x0"),
        (False, "EXIT", ""),
    )
    assert large_loops(code) == [range(106, 308), range(1, 309), range(0, 311)]
    counts = pixel_path(code, spread=4)
    assert counts["fma"] == 201
    assert counts["lsu"] == (100 + 1 + 2 * 3 + 2 * 3) / 4  # its teacher, the gradient, both sides' counts of two trips


PTX = """
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0,
    .param .u32 kernel_param_1,
    .param .u64 .ptr .global .align 1 kernel_param_2,
    .param .u64 .ptr .global .align 1 kernel_param_3
)
    ld.param.b64 %rd1, [kernel_param_0];
    ld.param.s32 %rd2, [kernel_param_1];
    ld.param.b64 %rd3, [kernel_param_2];
    ld.param.b64 %rd4, [kernel_param_3];
    mad.lo.s64 %rd5, %rd2, %rd2, %rd1;
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd5 + 0 ];
    add.s64 %rd5, %rd5, 2;
    @%p1 ld.global.b16 { %rs1 }, [ %rd5 + 0 ];
    ld.global.b64 %rd6, [%rd4];
    shl.b64 %rd7, %rd6, 2;
    selp.b64 %rd8, %rd3, %rd4, %p2;
    add.s64 %rd9, %rd8, %rd7;
    @%p1 st.global.v2.b32 [ %rd9 + 0 ], { %r1, %r2 };
"""


def test_narrowest_accesses():
    """A tensor whose values are indices is not accessed where they lead."""

    class Source:
        signature: ClassVar = {"x": Pixels("*fp16", "i32", "constexpr"), "out_ptr": "*fp32", "table_ptr": "*i64"}

    assert access_bits(PTX, Source) == {"x": 16, "out": 64, "table": 64}


def test_audited_tensors_have_widths():
    rows, _ = load(BASELINES[-1])
    known = {row.case: row.access_bits for row in rows}
    plain = Case(19, "bf16", "nchw", True, "sm_90")
    assert [known[plain][name] for name in ("student", "teacher", "grad")] == [32] * 3
    assert [known[plain._replace(odd=True)][name] for name in ("student", "teacher", "grad")] == [16] * 3


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "num_warps", "programs"),
    [
        (168, 16, 4, 3),
        (96, 16, 4, 5),
        (255, 0, 1, 8),
        (239, 64, 8, 1),
        (32, 0, 4, 16),
        (32, 0, 1, 32),
        (32, 60000, 4, 3),
    ],
)
def test_resident_programs(registers, shared_bytes, num_warps, programs):
    """Bound by registers, by warps, by programs, by shared memory."""
    assert resident_programs(DEVICES["sm_90"], registers, shared_bytes, num_warps) == programs


def test_waves_are_of_the_launch_that_adr_6_tells():
    upsampled = Case(19, "bf16", "nchw", True, "sm_90", "upsampled")
    assert num_programs(upsampled, DEVICES["sm_90"]) == 1000
    assert num_programs(CASE, DEVICES["sm_80"]) == 8 * 4096
