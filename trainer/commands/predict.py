"""``fpl-fast predict``."""

from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.run_folder import RunFolder

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Segment images: for each an 8-bit PNG of class indices that carries the colours as its palette."""
    parser = Parser("fpl-fast predict", "Segment images: an index PNG for each, with the class colours as its palette.")
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--out", default="predictions", help="folder to write NAME.png to")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights")
    options = parser.parse_args(arguments)
    images = [Path(image) for image in options.images]
    names = [image.stem for image in images]
    if len(set(names)) < len(names):
        raise ValueError(f"IMAGE must differ in name, got {max(names, key=names.count)!r} more than once")

    from fpl_fast.trainer.predict import predict_file
    from fpl_fast.trainer.trained import load_trained

    run = load_trained(RunFolder(options.run), checkpoint=options.checkpoint)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for image in images:
        target = out / f"{image.stem}.png"
        predict_file(run, image, target)
        out_console().print(str(target))
    return 0
