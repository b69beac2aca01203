"""Offline audit of the kernels: counts from their compiled code, without a GPU.

Every case is compiled for its target and disassembled; the table holds registers, spills, instructions per pixel by
pipe, access widths and, from these and the data sheets, occupancy and a predicted fraction of the memory roofline.
Predicted means that nothing was timed. ``fpl-fast bench audit`` compares the table with the committed baseline of the
version of Triton that compiles.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import triton

from fpl_fast.bench.audit.occupancy import DEVICES, num_programs, resident_programs
from fpl_fast.bench.audit.sass import disassemble, pixel_path, streamed_paths, whole_path
from fpl_fast.bench.audit.sources import TARGETS, Case, Kernel, kernel_source
from fpl_fast.bench.audit.widths import access_bits
from fpl_fast.kernels.configs import Config, UpsampledConfig

TOLERANCE = 0.03  # relative growth of a count that the check allows
PIPES = ("alu", "fma", "mufu", "lsu", "other")
STRIP_CELLS = 10  # cell rows of a strip of 200 x 200 to 800 x 800 on an H100
UPSAMPLED_ROWS = 4  # high-resolution rows of a cell, over which the work of a cell is spread: upsampling by 4


class Row(NamedTuple):
    """Counts of one compiled case, per pixel; None where the target's disassembly is not read."""

    case: Case
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: float | None  # fast path: no pixel of the block has a tie at the cut or more than three positives
    slow_instructions: float | None  # every path of the kernel once
    pipes: dict[str, float] | None  # of the fast path
    access_bits: dict[str, int] | None  # narrowest of a thread to each tensor
    warps: int | None  # that a multiprocessor holds
    waves: float | None  # of one launch, see ``occupancy``
    compute_over_memory: float | None  # predicted time of the busiest pipe over the predicted time of the memory

    @property
    def predicted_roofline(self) -> float | None:
        """Predicted fraction of the memory bandwidth that the kernel can reach."""
        return None if self.compute_over_memory is None else min(1.0, 1 / self.compute_over_memory)


def default_cases() -> list[Case]:
    """Cases of the committed table: Cityscapes, VOC and ADE20K class counts."""
    full = itertools.product((19, 21, 150), ("bf16", "fp32"), ("nchw", "channels_last"), (True, False), TARGETS)
    lean = [Case(classes, "bf16", "nchw", True, target, stats=False) for classes in (19, 21) for target in TARGETS]
    upsampled = [
        Case(classes, "bf16", "nchw", capped, target, "upsampled")
        for classes in (19, 21)
        for capped in (True, False)
        for target in TARGETS
    ]
    others = [
        Case(19, "bf16", "nchw", True, target, "upsampled", cutmix=cutmix, stats=stats)
        for cutmix, stats in ((False, False), (True, True))
        for target in TARGETS
    ]
    plain = [
        Case(19, dtype, layout, True, target, stats=stats)
        for dtype, layout, stats in (("bf16", "nchw", True), ("bf16", "nchw", False), ("bf16", "channels_last", True))
        for target in TARGETS
    ]
    others += [case._replace(odd=True) for case in plain]
    others += [case._replace(cutmix=True) for case in plain if case.stats and case.layout == "nchw"]
    of_distances: tuple[Kernel, ...] = ("mse", "upsampled mse", "kl", "upsampled kl")
    distances = itertools.product((19, 21), ("bf16",), ("nchw",), (True,), TARGETS, of_distances, (False,), (False,))
    kernels: tuple[Kernel, ...] = ("pseudo labels", "upsampled pseudo labels", "ranks", "upsampled ranks", "context")
    teacher = [Case(*case) for case in itertools.product((19, 21), ("bf16",), ("nchw",), (True,), TARGETS, kernels)]
    teacher += [case._replace(stats=False) for case in teacher if case.kernel == "upsampled pseudo labels"]
    return [*(Case(*case) for case in full), *lean, *upsampled, *others, *teacher, *(Case(*case) for case in distances)]


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
    """Compile one case and count its instructions and resources."""
    config = case.config
    source = kernel_source(case)
    options = {"num_warps": config.num_warps, "enable_fp_fusion": True}
    if isinstance(config, Config) and config.max_registers and case.target in DEVICES:
        options["maxnreg"] = config.max_registers
    if isinstance(config, UpsampledConfig) and config.min_waves and case.target not in DEVICES:
        options["waves_per_eu"] = config.min_waves
    compiled = triton.compile(source, target=TARGETS[case.target], options=options)
    if case.target not in DEVICES:
        assembly = compiled.asm["amdgcn"]
        registers, spills = (
            int(re.findall(rf"\.{key}:\s*(\d+)", assembly)[0]) for key in ("vgpr_count", "vgpr_spill_count")
        )
        return Row(case, registers, 4 * spills, compiled.metadata.shared, *[None] * 7)
    instructions, resources = disassemble(compiled.asm["cubin"])
    device, shared_bytes = DEVICES[case.target], compiled.metadata.shared
    programs = resident_programs(device, resources.registers, shared_bytes, config.num_warps)
    row = Row(
        case=case,
        registers=resources.registers,
        spill_bytes=resources.stack_bytes,
        shared_bytes=shared_bytes,
        instructions=None,
        slow_instructions=None,
        pipes=None,
        access_bits=access_bits(compiled.asm["ptx"], source),
        warps=programs * config.num_warps,
        waves=round(num_programs(case, device) / (programs * device.multiprocessors), 2),
        compute_over_memory=None,
    )
    if case.kernel == "context":  # the path of a pixel depends on the classes around it
        return row
    spread = UPSAMPLED_ROWS if case.launch == "upsampled" else None
    per_pixel = 32 * config.num_warps / config.block
    paths = pixel_path(instructions, spread), whole_path(instructions, spread)
    if case.streamed:
        paths = streamed_paths(instructions, case.num_classes // config.group)
    fast, every = ({pipe: round(counts[pipe] * per_pixel, 1) for pipe in PIPES} for counts in paths)
    return row._replace(
        instructions=round(sum(fast.values()), 1),
        slow_instructions=round(sum(every.values()), 1),
        pipes=fast,
        compute_over_memory=_compute_over_memory(case, fast),
    )


def regressions(rows: list[Row], baseline: list[Row]) -> list[str]:
    """Describe each row that is worse than its baseline by more than the tolerance or is missing from it, in a line."""
    known = {row.case: row for row in baseline}
    lines = []
    for row in rows:
        if row.case not in known:
            lines.append(f"{row.case}: not in the baseline")
            continue
        for field in ("registers", "spill_bytes", "instructions", "slow_instructions"):
            now, before = getattr(row, field), getattr(known[row.case], field)
            if now is not None and now > before * (1 + TOLERANCE):
                lines.append(f"{row.case}: {field} {before} -> {now}")
        before = known[row.case].access_bits or {}
        for tensor, bits in (row.access_bits or {}).items():
            if bits < before.get(tensor, bits):
                lines.append(f"{row.case}: bits of an access to {tensor} {before[tensor]} -> {bits}")
    return lines


def render(rows: list[Row]) -> str:
    """Render the table in Markdown."""
    header = "case | regs | spill B | smem B | instr/px | slow | " + " | ".join(PIPES)
    header += " | warps | waves | bits of an access | predicted compute/memory | predicted roofline"
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for row in rows:
        pipes = [row.pipes[pipe] for pipe in PIPES] if row.pipes else [None] * len(PIPES)
        roofline = None if row.predicted_roofline is None else f"{row.predicted_roofline:.0%}"
        cells = [
            str(row.case),
            row.registers,
            row.spill_bytes,
            row.shared_bytes,
            row.instructions,
            row.slow_instructions,
        ]
        bits = None if row.access_bits is None else ", ".join(f"{name} {n}" for name, n in row.access_bits.items())
        cells += [*pipes, row.warps, row.waves, bits, row.compute_over_memory, roofline]
        lines.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def baseline_path(version: str) -> Path:
    """The committed baseline of a version of Triton, of which the first two numbers count."""
    return Path(__file__).with_name(f"baseline-{'.'.join(version.split('.')[:2])}.json")


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
        check: compare with the committed baseline of this version of Triton.
        update: write that.

    Returns:
        Exit status: 1 if the check finds a row worse than its baseline.
    """
    rows = audit(default_cases())
    sys.stdout.write(render(rows) + "\n")
    worse = []
    path = baseline_path(triton.__version__)
    if check and path.exists():
        worse = regressions(rows, load(path)[0])
        sys.stdout.writelines(f"worse: {line}\n" for line in worse)
    elif check:
        sys.stdout.write(f"nothing to compare with: there is no baseline of triton {triton.__version__}\n")
    if update:
        save(rows, path)
    return 1 if worse else 0


def _compute_over_memory(case: Case, pipes: dict[str, float]) -> float:
    """Divide the time of the busiest pipe, or of instruction issue, by the time of the bytes that must move."""
    device, num_bytes = DEVICES[case.target], _pixel_bytes(case)
    memory_ps = num_bytes / device.memory_gbps * 1000
    counts = pipes | {"issue": sum(pipes.values())}
    clocks = max(counts[pipe] / lanes for pipe, lanes in device.lanes.items())  # per pixel and multiprocessor
    return round(clocks / (device.multiprocessors * device.clock_ghz) * 1000 / memory_ps, 3)


def _pixel_bytes(case: Case) -> float:
    """Bytes that must move for a pixel."""
    logits = case.num_classes * case.element_size
    if case.launch not in ("full", "upsampled"):  # a read of the logits, and a few bytes written
        written = 8 if case.kernel.endswith("ranks") else 9 + 4 * case.stats
        return logits / (UPSAMPLED_ROWS**2 if case.kernel.startswith("upsampled") else 1) + written
    mask = float(case.cutmix)
    if case.launch == "full":
        return 3 * logits + mask  # two reads and a write
    rows = (STRIP_CELLS + 1) / STRIP_CELLS
    buffer = 2 * 4 * case.num_classes * rows / UPSAMPLED_ROWS  # float32, written and read back
    return 3 * logits / UPSAMPLED_ROWS**2 + buffer + mask
