"""``fpl-fast predict``."""

from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console
from fpl_fast.trainer.commands.settings import expand_short_names
from fpl_fast.trainer.run.folder import RunFolder

__all__ = ["main"]

_DESCRIPTION = """
Segment images, or all images in folders: NAME.png holds class indices and carries the class colours as its palette,
NAME_overlay.jpg shows them over the image. What fpl-fast did not write is never written over. Every setting of the run
can be changed as in training: --protocol whole.
"""


def main(arguments: list[str]) -> int:
    """Segment images and folders of images."""
    parser = Parser("fpl-fast predict", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", help="image files and folders of them")
    parser.add_argument("--out", type=folder_name, default="predictions", help="folder to write to")
    parser.add_argument(
        "--label-ids",
        action="store_true",
        help="official label ids instead of class indices, for Cityscapes",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights")
    options, changes = parser.parse_known_args(expand_short_names(arguments))

    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.evaluation.export import index_png, label_id_png, overlay_jpeg
    from fpl_fast.trainer.evaluation.predict import find_images, predict_image, read_image
    from fpl_fast.trainer.evaluation.trained import load_trained
    from fpl_fast.trainer.writing.counted import counted
    from fpl_fast.trainer.writing.outputs import Outputs, WrittenFiles

    out = Path(options.out)
    for folder in (options.run, *options.images):
        if out.is_dir() and out.resolve() == Path(folder).resolve():
            what = "the run's own folder" if folder == options.run else "a folder that is read"
            raise ValueError(f"--out must not be {what}, got {options.out!r}: choose one for the predictions alone")
    images = find_images(options.images, skip=WrittenFiles(out))
    places = [place for name in images.values() for place in (_mask(name), _overlay(name))]
    outputs = Outputs(out, places, reads=images, option="--out")
    run = load_trained(RunFolder(options.run), checkpoint=options.checkpoint, changes=changes)
    if options.label_ids and run.config.data.kind != "city":
        raise ValueError(f"--label-ids must come with a run on city, got one on {run.config.data.kind}")
    palette = run.classes.palette
    with counting() as progress:
        show = progress("images")
        for done, (file, name) in enumerate(images.items(), start=1):
            pixels = read_image(file)
            prediction = predict_image(run, pixels)
            mask = label_id_png(prediction) if options.label_ids else index_png(prediction, palette)
            outputs.write(_mask(name), mask)
            outputs.write(_overlay(name), overlay_jpeg(pixels, prediction, palette))
            show(done, len(images))
    out_console().print(f"{counted(len(images), 'prediction')} in {out}")
    return 0


def _mask(name: Path) -> Path:
    return name.with_name(f"{name.name}.png")


def _overlay(name: Path) -> Path:
    return name.with_name(f"{name.name}_overlay.jpg")
