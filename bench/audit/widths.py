"""Widths of a kernel's accesses to each of its tensors, read from PTX, in which every address leads to a parameter."""

import re
from collections.abc import Iterator
from typing import Any

from triton.compiler import ASTSource

_ACCESS = re.compile(r"(?:ld|st)\.global((?:\.\w+)*)[^\[;]*\[\s*(%rd\d+)")
_DEFINITION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.]*)\s+(%rd\d+),\s*(.*);", re.MULTILINE)
_POINTER = re.compile(r"\.param \.u64 \.ptr\b.*_param_(\d+)")


def access_bits(ptx: str, source: ASTSource) -> dict[str, int]:
    """The narrowest access of a thread to each tensor, in bits.

    Args:
        ptx: of the kernel.
        source: that it was compiled from.
    """
    names = list(_parameters(source))
    pointers = {int(index) for index in _POINTER.findall(ptx)}
    sources: dict[str, set[str]] = {}
    for opcode, register, operands in _DEFINITION.findall(ptx):
        if not opcode.startswith(("ld.global", "ld.shared")):  # what is loaded is no address
            sources.setdefault(register, set()).update(re.findall(r"%rd\d+|_param_\d+", operands))
    narrowest: dict[str, int] = {}
    for modifiers, address in _ACCESS.findall(ptx):
        bits = _bits(modifiers)
        for index in _parameters_behind(address, sources) & pointers:
            narrowest[names[index]] = min(bits, narrowest.get(names[index], bits))
    return {name: narrowest[name] for name in names if name in narrowest}


def _parameters(source: ASTSource) -> Iterator[str]:
    """Names of the kernel's parameters in PTX, those of fields with a dot; a tensor's pointer has the tensor's name."""

    def visit(name: str, kind: Any) -> Iterator[str]:
        if isinstance(kind, tuple):
            fields = getattr(kind, "_fields", range(len(kind)))
            for field, inner in zip(fields, kind, strict=True):
                yield from visit(name if field == "ptr" else f"{name}.{field}".removesuffix("_ptr"), inner)
        elif kind != "constexpr":
            yield name.removesuffix("_ptr")

    for name, kind in source.signature.items():
        yield from visit(name, kind)


def _parameters_behind(register: str, sources: dict[str, set[str]]) -> set[int]:
    """Indices of the parameters that an address is computed from."""
    found, waiting = {register}, [register]
    while waiting:
        new = sources.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return {int(name.removeprefix("_param_")) for name in found if name.startswith("_param_")}


def _bits(modifiers: str) -> int:
    """Bits of an access with modifiers such as ``.v4.b32``."""
    vector, width = re.search(r"\.v(\d)", modifiers), re.findall(r"\.[bfsu](\d+)", modifiers)
    return int(width[-1]) * (int(vector[1]) if vector else 1)
