"""Networks that go through torch.compile; on a GPU their kernels are replayed as CUDA graphs.

A step of two ResNet-50 launches thousands of kernels, and the host needs longer for that than the GPU for the work.
"""

import torch

from fpl_fast.trainer.methods import Method

__all__ = ["begin_step", "compile_networks"]


def compile_networks(method: Method, *, graphs: bool) -> None:
    """Compile the networks of a method, each when it is first called.

    Args:
        method: The method.
        graphs: Whether the compiled kernels become CUDA graphs.
    """
    for network in method.networks:
        network.compile(**({"mode": "reduce-overhead"} if graphs else {}))


def begin_step(method: Method) -> None:
    """Tell graphs that a step begins: what networks returned in earlier steps may be overwritten.

    Within a step every call of a network keeps its memory until its gradient is known. Nothing that networks returned,
    and no gradient, may be needed any more.
    """
    # Asked for by itself, this would import the compiler, which takes seconds.
    if any(network._compiled_call_impl is not None for network in method.networks):
        torch.compiler.cudagraph_mark_step_begin()
