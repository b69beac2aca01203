"""Build the package of one specialisation of the compiled engine: the process that ``packages`` starts."""

import pickle
import sys
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines.packages import Specialisation

# The number of threads is the caller's; and no limit on the size of a fused group: one loop is the point. Products and
# the sums behind them are one instruction, which a tenth of the time is worth. Headers that are compiled first take
# longer than a few graphs win by them, and stay behind in the temporary folder.
_INDUCTOR_OPTIONS: dict[str, Any] = {
    "max_fusion_size": 1 << 20,
    "cpp.max_horizontal_fusion_size": 1 << 20,
    "cpp.dynamic_threads": True,
    "cpp.enable_floating_point_contract_flag": "fast",
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",  # of what calls the loop: 1.5 s less
}


class _Graph(torch.nn.Module):
    def __init__(self, specialisation: Specialisation) -> None:
        super().__init__()
        self.specialisation = specialisation

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        return self.specialisation.evaluate(tensors)


def build(specialisation: Specialisation, package: str) -> None:
    """Compile the graph for every size that it allows and write it to the file ``package``."""
    tensors, shapes = specialisation.examples(), specialisation.dynamic_shapes()
    program = torch.export.export(_Graph(specialisation), (tensors,), dynamic_shapes=(shapes,), strict=False)
    torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=_INDUCTOR_OPTIONS)


def main() -> None:
    """Read the specialisation and the file from the standard input; on failure, write the reason in one line."""
    specialisation, package = pickle.load(sys.stdin.buffer)
    try:
        build(specialisation, package)
    except Exception as error:  # whatever it is, the caller has an engine that needs no compiler
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        sys.stdout.write(next((line for line in lines if "error: " in line), lines[0])[:300])
        sys.exit(1)
