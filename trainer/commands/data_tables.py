"""Tables that ``fpl-fast data check`` shows."""

import shutil
from pathlib import Path

from rich.table import Table

from fpl_fast.trainer.commands.tables import prediction_text
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.data.check import DataReport
from fpl_fast.trainer.data.sample import value_ranges
from fpl_fast.trainer.dry_run import prepare_run
from fpl_fast.trainer.run.clock import available_memory_bytes

__all__ = ["class_shares", "memory_line", "parts_table", "step_line"]


def parts_table(report: DataReport) -> Table:
    """Tabulate number, sizes and stored label values of each part."""
    table = Table("part", "images", "width x height", "label values")
    for name, part in report.parts.items():
        sizes = sorted(part.found.sizes, key=lambda size: (size[0] * size[1], size))
        smallest_and_largest = dict.fromkeys(f"{width} x {height}" for height, width in (*sizes[:1], *sizes[-1:]))
        values = value_ranges(part.found.stored_pixels.nonzero().flatten().tolist())
        table.add_row(name, str(len(part.split.pairs)), " ... ".join(smallest_and_largest), values)
    return table


def class_shares(report: DataReport) -> Table:
    """Tabulate the share of each class in the pixels of the labelled images, with a bar, and the validation images."""
    table = Table("class")
    table.add_column("labelled, %", justify="right")
    table.add_column("")
    table.add_column("val, %", justify="right")
    parts = [report.parts["labelled"], report.parts["val"]]
    pixels = [part.found.label_pixels.double() for part in parts]
    labelled, val = ((100 * count / count.sum().clamp(min=1)).tolist() for count in pixels)
    dataset = parts[0].dataset
    for index, name in (*enumerate(dataset.class_names), (dataset.ignore_index, "no label")):
        table.add_row(name, f"{labelled[index]:.2f}", "█" * round(labelled[index] / 4), f"{val[index]:.2f}")
    return table


def memory_line(report: DataReport, path: Path) -> str:
    """Compare the size of a pack with disk and memory: a pack that fits is read from the disk once, not every epoch.

    Args:
        report: Result of the check.
        path: Folder of the pack, which need not exist.
    """
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = (
        f"packed: {report.packed_bytes / 1e9:.2f} GB, disk free {free / 1e9:.1f} GB; "
        f"batches held ready by the loaders, estimated: {report.loader_bytes / 1e9:.2f} GB"
    )
    available = available_memory_bytes()
    if available is None:
        return text
    fits = report.packed_bytes + report.loader_bytes < available
    return f"{text}; {'both fit' if fits else 'both do not fit'} in the {available / 1e9:.1f} GB of free memory"


def step_line(config: RunConfig) -> str:
    """Compare the predicted memory of a step on one device with the free memory of the device at hand.

    Args:
        config: The run; with several devices, the share of one device is predicted.
    """
    try:
        prepared = prepare_run(config, alone=True)
    except Exception as error:  # devices raise many kinds of errors, and none of them is a fault of the data set
        return f"a step on one device cannot be predicted here: {' '.join(str(error).split())}"
    text = f"a step on one device, predicted: {prediction_text(prepared.predicted)}"
    if prepared.device == "CPU" and config.train.accelerator == "auto":
        text += "; there is no GPU here to compare with"
    if prepared.available is None:
        return text
    fits = "fits" if prepared.fits else "does not fit"
    return f"{text}; {fits} in the {prepared.available / 1e9:.1f} GB free on {prepared.device}"
