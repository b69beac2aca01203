"""``fpl-fast init``."""

import shlex
from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console

__all__ = ["main"]

_DESCRIPTION = """
Look at a folder of images and masks and write what training needs: lists of the labelled, the unlabelled and the
validation images, and a config.yaml with classes, ignored values, crop, network and batch, each with the reason of its
choice. Folders and files may have any of the usual names; lists are used where there are some. DATA is only read.
"""


def main(arguments: list[str]) -> int:
    """Describe a folder and print the command that trains on it; exit code 1 if masks are missing."""
    parser = Parser("fpl-fast init", _DESCRIPTION)
    parser.add_argument("data", metavar="DATA", help="folder of images and masks")
    parser.add_argument(
        "--out", type=folder_name, metavar="DIR", help="folder for config.yaml and the lists; default configs/NAME"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draw of validation images, where one is needed"
    )
    options = parser.parse_args(arguments)

    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.own_data.describe import describe_folder
    from fpl_fast.trainer.writing.counted import counted

    root = Path(options.data)
    out = Path(options.out) if options.out else Path("configs") / (root.resolve().name or "data")
    console = out_console()
    with counting() as progress:
        found = describe_folder(root, out, seed=options.seed, progress=progress("images and masks"), tell=console.print)
    for choice in found.choices:
        console.print(choice)
    for note in found.notes:
        console.print(f"note: {note}")
    if found.config is None:
        for part, path in found.lists.items():
            console.print(f"{path}: {counted(found.counts[part], 'image')}")
        return 1
    console.print(f"{found.config}: every setting, with these reasons")
    console.print(f"check: {shlex.join(['fpl-fast', 'data', 'check', str(found.config)])}")
    console.print(f"train: {shlex.join(['fpl-fast', 'train', str(found.config)])}")
    return 0
