"""Facts about the processor and the compiler, which Inductor finds out once for all packages of a process."""

import functools


def probe_once(monkeypatch) -> None:
    """Let the processes that build packages take this process's word for the sets of instructions.

    In every empty cache Inductor compiles and loads a program for each set: a fifth of the work for a package. Where
    one of them fails, builds find out by themselves, as they do for users and in tests/test_packages.py.
    """
    if _all_work():
        monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")


@functools.cache
def _all_work() -> bool:
    """Whether the compiler's programs load, for every set of instructions that the processor has."""
    from torch._inductor import cpu_vec_isa  # as heavy as a compiler

    found = {str(instructions) for instructions in cpu_vec_isa.valid_vec_isa_list()}
    return {"avx2", "avx512"} & set(cpu_vec_isa.x86_isa_checker()) <= found
