"""Rendering of the measurement of training steps as Markdown."""

from collections.abc import Mapping
from typing import Any

from fpl_fast.bench.training.peers import NAMES

__all__ = ["training_report"]

_EXPLANATION = (
    "CPS with CutMix, random images that lie on the device already; medians over rounds in which every peer takes "
    "its turn. *first step* holds compilation, if any: of the networks in (b), which (b') and (c) share. "
    "*busy* is the time of all kernels of one step: a GPU waits for the host for the rest of it. "
    "*losses* are the losses and their gradient in the logits, alone, on logits that the networks gave. "
    "*peak memory* counts weights, optimiser and one step; operations are those of the convolutions, forward and "
    "backward."
)
_HEADER = (
    "| | precision | images/s | step, ms | IQR | busy, ms | launches | losses, ms | share of the step "
    "| peak memory, MB | TFLOP/s "
    "| of the card's matrix rate | first step, s |"
)


def training_report(measured: Mapping[str, Any]) -> str:
    """Render the results of ``measure_training``."""
    machine, setup = measured["machine_info"], measured["setup"]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in ("device", "kind"))
    lines = [
        f"# Training steps on {machine['device']}",
        "",
        f"{measured['datetime'][:10]}, {facts}.",
        "",
        f"{setup['backbone']}, crop {setup['crop']}, {setup['num_classes']} classes, {setup['batch']} labelled and "
        f"twice {setup['batch']} unlabelled images a step, {setup['tflop_per_step']:.3g} TFLOP, "
        f"{setup['rounds']} rounds.",
        "",
        *_compilation(setup),
        _EXPLANATION,
        "",
        _HEADER,
        "|---|---|" + "--:|" * (_HEADER.count("|") - 3),
        *(_row(NAMES[name], peer) for name, peer in measured["peers"].items()),
        "",
        "## Targets",
        "",
        *_targets(measured),
        "",
    ]
    return "\n".join(lines)


def _compilation(setup: Mapping[str, Any]) -> list[str]:
    """Say whether networks were compiled, and how long that took."""
    if not setup["compiles"]:
        return []
    if setup["compile_s"] is None:
        return ["**No network is compiled here**: this is measured first, because compiling takes minutes.", ""]
    return [
        f"Compilation of the networks of (b), (b') and (c) took {setup['compile_s']:.0f} s, which no step holds.",
        "",
    ]


def _row(name: str, facts: Mapping[str, Any]) -> str:
    card = facts["card_tflops"]
    cells = [
        name,
        facts["precision"],
        f"{facts['images_per_second']:,.1f}",
        f"{1e3 * facts['step_s']:,.1f}",
        f"{100 * facts['step_iqr_s'] / facts['step_s']:.0f} %",
        f"{1e3 * facts['busy_s']:,.1f}" if facts["launches"] else "–",
        f"{facts['launches']:,}" if facts["launches"] else "–",
        f"{1e3 * facts['loss_s']:.3g}",
        f"{100 * facts['loss_share']:.1f} %",
        f"{facts['peak_memory_mb']:,.0f}",
        f"{facts['tflops']:.3g}",
        f"{100 * facts['tflops'] / card:.0f} %" if card else "–",
        f"{facts['first_step_s']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _targets(measured: Mapping[str, Any]) -> list[str]:
    """Render the table of targets; on a CPU the figures are not judged, because the targets are for a GPU."""
    ratios, peers = measured["step_ratios"], measured["peers"]
    fpl, plain = peers["fpl"], peers["plain"]
    rows = [
        ("(c) faster than (a)", "≥ 3 ×", 1 / ratios["plain"], "{:.2f} ×", lambda x: x >= 3),
        ("step of (c) over that of (b)", "≤ 1.01", ratios["ce"], "{:.3f}", lambda x: x <= 1.01),
        ("step of (c) over that of (b')", "≤ 1", ratios["torch_ce"], "{:.3f}", lambda x: x <= 1),
        ("losses in the step of (c)", "≤ 2 %", 100 * fpl["loss_share"], "{:.1f} %", lambda x: x <= 2),
        (
            "peak memory of (c) over that of (a)",
            "≤ 60 %",
            100 * fpl["peak_memory_mb"] / plain["peak_memory_mb"],
            "{:.0f} %",
            lambda x: x <= 60,
        ),
    ]
    setup = measured["setup"]
    judged = measured["machine_info"]["kind"] == "cuda" and not (setup["compiles"] and setup["compile_s"] is None)
    return [
        "" if judged else "Set for ResNet-50 at 512², compiled, on one A100 or H100; others are not judged.\n",
        "| | target | measured | met |",
        "|---|--:|--:|---|",
        *(
            f"| {text} | {target} | {form.format(value)} | {('yes' if met(value) else 'no') if judged else ''} |"
            for text, target, value, form, met in rows
        ),
    ]
