import os
import subprocess
import sys

import pytest

from fpl_fast.bench.audit.sass import Instruction, access_bits, large_loops, pipe_counts, pixel_path, whole_path
from fpl_fast.bench.audit.sources import Case
from fpl_fast.bench.audit.table import BASELINE, Row, default_cases, load, regressions, render, save

CASE = Case(num_classes=19, dtype="bf16", layout="nchw", capped=True, target="sm_80")
PIPES = {"alu": 400.0, "fma": 300.0, "mufu": 80.0, "lsu": 50.0, "other": 20.0}
ROW = Row(CASE, 150, 0, 16, 850.0, 850.0, PIPES, 32, 32, 0.5)


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
    baseline, baseline_version = load(BASELINE)
    if version == baseline_version:  # another compiler, other counts: make audit shows them
        assert regressions(rows, baseline) == []


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
        "samples = Samples('*bf16:16', 'i32:16', 'i32:16', 'i32', 1);"
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


def test_baseline_covers_the_table():
    rows, _ = load(BASELINE)
    assert [row.case for row in rows] == default_cases()


def test_audit_refuses_the_interpreter(monkeypatch):
    from fpl_fast.bench.audit.table import audit

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        audit([CASE])


def test_save_and_load(tmp_path):
    amd = Row(CASE._replace(target="gfx942"), 113, 0, 16, None, None, None, None, None, None)
    save([ROW, amd], tmp_path / "rows.json")
    assert load(tmp_path / "rows.json")[0] == [ROW, amd]


@pytest.mark.parametrize(
    ("change", "num_worse"),
    [({}, 0), ({"instructions": 870.0}, 0), ({"instructions": 880.0}, 1), ({"spill_bytes": 4, "registers": 160}, 2)],
)
def test_regressions(change, num_worse):
    assert len(regressions([ROW._replace(**change)], [ROW])) == num_worse


def test_a_row_without_a_baseline_is_a_regression():
    assert "not in the baseline" in regressions([ROW], [])[0]


def test_render():
    assert "| C=19 bf16 nchw capped sm_80 | 150 | 0 |" in render([ROW])
    assert ROW.predicted_roofline == 1.0
    assert ROW._replace(compute_over_memory=2.0).predicted_roofline == 0.5


def test_paths_and_widths():
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
    assert access_bits(code, "LDG") == 64
    assert access_bits(code, "STG") == 16
    assert access_bits(code, "LDS") == 0


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
