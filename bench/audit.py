"""Offline audit of the kernels: what the compilers make of them, without a GPU.

Every case is compiled for its target and disassembled; the table holds registers, spills, instructions per pixel by
pipe, access widths and, from these and the data sheets, a predicted fraction of the memory roofline. Predicted means
that nothing was timed. ``python -m fpl_fast.bench.audit --check`` compares the table with the committed baseline.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fpl_fast.bench.sass import access_bits, disassemble, pipe_counts, shortest_path
from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel

BASELINE = Path(__file__).with_name("audit_baseline.json")
TOLERANCE = 0.03  # relative growth of a count that the check lets pass
PIPES = ("alu", "fma", "mufu", "lsu", "other")
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


class Device(NamedTuple):
    """Rates of a GPU, from its data sheet (clock: sustained; memory: about what a large copy reaches)."""

    name: str
    multiprocessors: int
    clock_ghz: float
    memory_gbps: float
    lanes: dict[str, int]  # per multiprocessor and clock; "issue": four warp instructions


DEVICES = {
    "sm_80": Device("A100", 108, 1.41, 1550, {"issue": 128, "fma": 64, "alu": 64, "mufu": 16, "lsu": 32}),
    "sm_90": Device("H100", 132, 1.7, 3000, {"issue": 128, "fma": 128, "alu": 64, "mufu": 16, "lsu": 32}),
}
_TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class Case(NamedTuple):
    """One compilation: gradient and sums, concave weighting, smooth form, no mask, pixel count divisible by 16."""

    num_classes: int
    dtype: str  # "bf16", "fp16" or "fp32", student and teacher alike
    layout: str  # "nchw" or "channels_last"
    capped: bool  # max_positives = 3, otherwise the paper's uncapped rule
    target: str


class Row(NamedTuple):
    """What a case compiled to; counts are per pixel, None where the target's disassembly is not read."""

    case: Case
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: float | None  # fast path: no pixel of the block needs more than three positives
    slow_instructions: float | None  # every path of the kernel once
    pipes: dict[str, float] | None  # of the fast path
    load_bits: int | None
    store_bits: int | None
    compute_over_memory: float | None  # predicted time of the busiest pipe over that of the memory

    @property
    def predicted_roofline(self) -> float | None:
        """Predicted fraction of the memory bandwidth that the kernel can reach."""
        return None if self.compute_over_memory is None else min(1.0, 1 / self.compute_over_memory)


def default_cases() -> list[Case]:
    """The committed table: Cityscapes, VOC and ADE20K class counts."""
    return [
        Case(*case)
        for case in itertools.product(
            (19, 21, 150), ("bf16", "fp32"), ("nchw", "channels_last"), (True, False), _TARGETS
        )
    ]


def audit(cases: list[Case], num_workers: int = 2) -> list[Row]:
    """Compile and count the cases, in the given order, on ``num_workers`` processes."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("the audit compiles kernels: run it without TRITON_INTERPRET=1")
    if num_workers <= 1:
        return [audit_case(case) for case in cases]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        return list(pool.map(audit_case, cases))


def audit_case(case: Case) -> Row:
    """Compile one case and count."""
    config = choose_config(case.num_classes, _BYTES[case.dtype], case.layout == "channels_last")
    compiled = triton.compile(
        kernel_source(case),
        target=_TARGETS[case.target],
        options={"num_warps": config.num_warps, "enable_fp_fusion": True},
    )
    if case.target not in DEVICES:
        assembly = compiled.asm["amdgcn"]
        registers, spills = (
            int(re.findall(rf"\.{key}:\s*(\d+)", assembly)[0]) for key in ("vgpr_count", "vgpr_spill_count")
        )
        return Row(case, registers, 4 * spills, compiled.metadata.shared, None, None, None, None, None, None)
    instructions, resources = disassemble(compiled.asm["cubin"])
    per_pixel = 32 * config.num_warps / config.block
    fast = pipe_counts(shortest_path(instructions))
    every = pipe_counts(instructions)
    pipes = {pipe: round(fast[pipe] * per_pixel, 1) for pipe in PIPES}
    return Row(
        case=case,
        registers=resources.registers,
        spill_bytes=resources.stack_bytes,
        shared_bytes=compiled.metadata.shared,
        instructions=round(fast.total() * per_pixel, 1),
        slow_instructions=round(every.total() * per_pixel, 1),
        pipes=pipes,
        load_bits=access_bits(instructions, "LDG"),
        store_bits=access_bits(instructions, "STG"),
        compute_over_memory=_compute_over_memory(case, pipes),
    )


def regressions(rows: list[Row], baseline: list[Row]) -> list[str]:
    """One line for each row that is worse than its baseline by more than the tolerance, or not in it."""
    known = {row.case: row for row in baseline}
    lines = []
    for row in rows:
        if row.case not in known:
            lines.append(f"{_name(row.case)}: not in the baseline")
            continue
        for field in ("registers", "spill_bytes", "instructions", "slow_instructions"):
            now, before = getattr(row, field), getattr(known[row.case], field)
            if now is not None and now > before * (1 + TOLERANCE):
                lines.append(f"{_name(row.case)}: {field} {before} -> {now}")
    return lines


def render(rows: list[Row]) -> str:
    """The table in Markdown."""
    header = "case | regs | spill B | smem B | instr/px | slow | " + " | ".join(PIPES)
    header += " | load bits | store bits | predicted compute/memory | predicted roofline"
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for row in rows:
        pipes = [row.pipes[pipe] for pipe in PIPES] if row.pipes else [None] * len(PIPES)
        roofline = None if row.predicted_roofline is None else f"{row.predicted_roofline:.0%}"
        cells = [
            _name(row.case),
            row.registers,
            row.spill_bytes,
            row.shared_bytes,
            row.instructions,
            row.slow_instructions,
        ]
        cells += [*pipes, row.load_bits, row.store_bits, row.compute_over_memory, roofline]
        lines.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def save(rows: list[Row], path: Path) -> None:
    """Write rows as JSON, one line each for readable diffs, with the compiler's version."""
    lines = [json.dumps(row._asdict() | {"case": row.case._asdict()}) for row in rows]
    path.write_text(f'{{"triton": "{triton.__version__}", "rows": [\n' + ",\n".join(lines) + "\n]}\n")


def load(path: Path) -> tuple[list[Row], str]:
    """Read rows that ``save`` wrote, and the version of Triton that compiled them."""
    content = json.loads(path.read_text())
    return [Row(**(row | {"case": Case(**row["case"])})) for row in content["rows"]], content["triton"]


def run_audit(check: bool, update: bool = False) -> int:
    """Audit the default cases and write the table to standard output.

    Args:
        check: compare with the committed baseline.
        update: replace the committed baseline.

    Returns:
        Exit status: 1 if the check finds a row worse than its baseline.
    """
    rows = audit(default_cases())
    sys.stdout.write(render(rows) + "\n")
    worse = []
    if check:
        baseline, version = load(BASELINE)
        worse = regressions(rows, baseline)
        sys.stdout.writelines(f"worse: {line}\n" for line in worse)
        if version != triton.__version__:
            sys.stdout.write(f"the baseline is of triton {version}, this is {triton.__version__}\n")
    if update:
        save(rows, BASELINE)
    return 1 if worse else 0


def _name(case: Case) -> str:
    """Short name of a case for tables and messages."""
    return f"C={case.num_classes} {case.dtype} {case.layout} {'capped' if case.capped else 'uncapped'} {case.target}"


def kernel_source(
    case: Case, types: dict[str, str] | None = None, constants: dict[str, Any] | None = None
) -> ASTSource:
    """The kernel specialised as the launcher does it on a contiguous or channels_last batch.

    Args:
        case: what to compile.
        types: Triton types of arguments that the case leaves out, such as ``{"valid_mask_ptr": "*i1"}``.
        constants: compile-time values other than the case's, such as ``{"FORM": "hinge"}``.
    """
    config = choose_config(case.num_classes, _BYTES[case.dtype], case.layout == "channels_last")
    rows = case.layout == "channels_last" and config.group == 1
    unit_stride = "stride_c" if case.layout == "channels_last" else "stride_p"
    logits = ("student", "teacher", "grad")
    values: dict[str, Any] = {
        "pixel_weight_ptr": None,
        "valid_mask_ptr": None,
        "map_ptr": None,
        "C": case.num_classes,
        "G": config.group,
        "BLOCK": config.block,
        "STUDENT_ROWS": rows,
        "TEACHER_ROWS": rows,
        "GRAD_ROWS": rows,
        "CAPPED": 3 if case.capped else 0,
        "WIDE_KEYS": case.dtype == "fp32",
        "WEIGHTING": "concave",
        "FORM": "smooth",
        "FAST": case.target in DEVICES,
    } | {f"{name}_{unit_stride}": 1 for name in logits}
    values = {name: value for name, value in values.items() if name not in (types or {})} | (constants or {})
    types = {f"{name}_ptr": f"*{case.dtype}" for name in logits} | (types or {})
    types |= {"scale_ptr": "*fp32", "sums_ptr": "*fp32", "threshold": "fp32", "convex_scale": "fp32"}
    names = fuzzy_positive_kernel.arg_names
    signature = {name: "constexpr" if name in values else types.get(name, "i32") for name in names}
    # Pointers, plane sizes and image strides are multiples of 16; a pixel's stride in channels_last is C.
    aligned = [
        n for n in names if signature[n].startswith("*") or n == "num_pixels" or n.endswith(("stride_n", "stride_c"))
    ]
    return ASTSource(
        fn=fuzzy_positive_kernel,
        signature=signature,
        constexprs=values,
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n not in values},
    )


def _compute_over_memory(case: Case, pipes: dict[str, float]) -> float:
    """Time of the busiest pipe, or of instruction issue, over the time of two reads and a write of the logits."""
    device = DEVICES[case.target]
    memory_ps = 3 * case.num_classes * _BYTES[case.dtype] / device.memory_gbps * 1000
    counts = pipes | {"issue": sum(pipes.values())}
    clocks = max(counts[pipe] / lanes for pipe, lanes in device.lanes.items())  # per pixel and multiprocessor
    return round(clocks / (device.multiprocessors * device.clock_ghz) * 1000 / memory_ps, 3)


def main() -> int:
    """Command line: the table, optionally checked against or written to the committed baseline."""
    parser = argparse.ArgumentParser(prog="python -m fpl_fast.bench.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a row is more than 3 %% worse than the baseline")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    arguments = parser.parse_args()
    return run_audit(check=arguments.check, update=arguments.update)


if __name__ == "__main__":
    raise SystemExit(main())
