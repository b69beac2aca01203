"""``fpl-fast data``."""

from pathlib import Path

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.commands.settings import read_config
from fpl_fast.trainer.config import FileData, RunConfig
from fpl_fast.trainer.config.label_map import show_label_map

__all__ = ["main"]

_PROG = "fpl-fast data check|pack RECIPE|CONFIG.yaml"
_DESCRIPTION = """
check reads every image and label that the run would read and tells what they are; exit code 1 when something is wrong.
It also predicts the memory of a step, and whether the device here has that much.
pack decodes them once into the folder --data.packed, from which a run with the same option then trains; a call that was
interrupted is repeated, and another partition is added to the same folder.
"""


def main(arguments: list[str]) -> int:
    """Check the data set of a recipe or a configuration file, or pack it."""
    what, *rest = arguments or [""]
    if what in ("-h", "--help"):
        what, rest = "check", ["--help"]
    if what not in ("check", "pack"):
        raise ValueError(f"{_PROG}: the first argument must be check or pack, got {what!r}")
    config = read_config(rest, prog=_PROG, description=_DESCRIPTION)
    return _check(config) if what == "check" else _pack(config)


def _check(config: RunConfig) -> int:
    from fpl_fast.trainer.commands.data_tables import class_shares, memory_line, parts_table, step_line
    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.data.check import examine_data

    with counting() as progress:
        report = examine_data(config, progress)
    assert isinstance(config.data, FileData)
    console = out_console()
    console.print(parts_table(report))
    for name, part in report.parts.items():
        console.print(f"{name}: {part.split.origin}, SHA-256 {part.split.sha256}")
    if config.data.label_map:
        console.print(f"label map: {show_label_map(config.data.label_map)}")
    console.print(class_shares(report))
    console.print(memory_line(report, Path(config.data.packed or config.data.root)))
    console.print(step_line(config))
    for remark in report.remarks:
        console.print(f"note: {remark}")
    return _tell(report.problems)


def _pack(config: RunConfig) -> int:
    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.data.check import read_file_splits
    from fpl_fast.trainer.data.pack_writer import write_pack
    from fpl_fast.trainer.data.sources import file_store
    from fpl_fast.trainer.data.store import Kind

    splits = read_file_splits(config)
    assert isinstance(config.data, FileData)
    if config.data.packed is None:
        raise ValueError("data.packed must name the folder to pack into, got null")
    path = Path(config.data.packed)
    pictures: list[tuple[Kind, str]] = [("image", pair.image) for split in splits.values() for pair in split.pairs]
    pictures.extend(("label", pair.label) for part in ("labelled", "val") for pair in splits[part].pairs)
    with counting() as progress:
        problems = write_pack(path, file_store(config.data), pictures, progress=progress("pictures"))
    total = len(set(pictures))
    size = sum(file.stat().st_size for file in path.iterdir())
    out_console().print(f"{path}: {total - len(problems)} of {total} pictures, {size / 1e9:.2f} GB")
    return _tell(problems)


def _tell(problems: list[str]) -> int:
    """Print all problems and return the exit code."""
    console = out_console()
    for problem in problems:
        console.print(f"wrong: {problem}")
    console.print(f"wrong in all: {len(problems)}" if problems else "nothing is wrong")
    return int(bool(problems))
