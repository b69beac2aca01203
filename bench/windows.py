"""Windows of an image one after the other and together: ``python -m fpl_fast.bench.windows``."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fpl_fast.bench.measure import peak_memory_mb, synchronize
from fpl_fast.trainer.build import make_network
from fpl_fast.trainer.config import ModelConfig
from fpl_fast.trainer.evaluation import protocol

__all__ = ["main"]

_NUM_CLASSES = 19


def main(arguments: list[str] | None = None) -> int:
    """Predict a random image both ways in turn, and print the ratios of time and memory."""
    parser = argparse.ArgumentParser(description="Compare windows that go through a network together with single ones.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--window", type=int, default=160, help="side in pixels, of which an image has eight")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    device, side = torch.device(options.device), options.window
    network = make_network(ModelConfig(backbone=options.backbone, pretrained=False), _NUM_CLASSES).to(device).eval()
    image = torch.randn(1, 3, 5 * side // 4, 5 * side // 2, device=device)
    # On a CPU the time of this process, which others on the same cores do not lengthen.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    single, together = (partial(_predict, network, image, side, pixels) for pixels in (0, protocol.BATCH_PIXELS))
    seconds: dict[Callable[[], Tensor], list[float]] = {single: [], together: []}
    for _ in range(options.rounds):
        for predict, durations in seconds.items():
            synchronize(device)
            begin = clock()
            predict()
            synchronize(device)
            durations.append(clock() - begin)
    time_ratio = statistics.median(seconds[together]) / statistics.median(seconds[single])
    memory_ratio = peak_memory_mb(together, device) / peak_memory_mb(single, device)
    differ = (single() != together()).float().mean().item()
    sys.stdout.write(
        f"eight windows of {side} x {side} together over one after the other, {options.backbone}, {device}: "
        f"time {time_ratio:.2f}, memory {memory_ratio:.2f}; classes that differ {100 * differ:.3f} %\n"
    )
    return 0


def _predict(network: nn.Module, image: Tensor, side: int, pixels: int) -> Tensor:
    """Predict an image with windows of at most so many pixels together."""
    before, protocol.batch_pixels = protocol.batch_pixels, lambda device: pixels
    try:
        with torch.inference_mode():
            return protocol.predict_classes(network, image, protocol.named_protocol("cps", (side, side)))
    finally:
        protocol.batch_pixels = before


if __name__ == "__main__":
    sys.exit(main())
