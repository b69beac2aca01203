"""From a folder to the files that describe it as a data set: lists, and a configuration with its reasons."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from fpl_fast.trainer.config import FolderData, RunConfig
from fpl_fast.trainer.config.io import config_to_dict
from fpl_fast.trainer.data.datasets import read_splits
from fpl_fast.trainer.data.pictures import IMAGE_SUFFIXES, find_files
from fpl_fast.trainer.data.sample import value_ranges
from fpl_fast.trainer.own_data.classes import Classes, choose_classes, find_names
from fpl_fast.trainer.own_data.masks import Contents, is_index_png, read_contents
from fpl_fast.trainer.own_data.pairing import Pairing, pair_up, place_of_mask
from fpl_fast.trainer.own_data.parts import Parts, choose_parts
from fpl_fast.trainer.own_data.settings import choose_settings
from fpl_fast.trainer.writing.counted import counted
from fpl_fast.trainer.writing.outputs import Outputs, WrittenFiles

__all__ = ["Description", "describe_folder"]

PARTS = ("labelled", "unlabelled", "val")
_CONFIG = Path("config.yaml")


@dataclass(frozen=True, slots=True)
class Description:
    """Outcome of looking at a folder."""

    config: Path | None
    """The configuration that was written; None where there are no masks to train with."""
    lists: dict[str, Path]
    counts: dict[str, int]
    """Images of each part."""
    choices: tuple[str, ...]
    """Every setting that was chosen, as ``key = value: reason``."""
    notes: tuple[str, ...]


class _OwnFiles:
    """Files below a folder that commands wrote: lists and configurations, predictions, and whole runs."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written = cache(WrittenFiles)
        self._is_run = cache(
            lambda folder: all((folder / name).is_file() for name in ("config.yaml", "environment.json"))
        )

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        folders = [self._root / folder for folder in PurePosixPath(name).parents]
        return any(self._is_run(folder) or self._root / name in self._written(folder) for folder in folders)


def describe_folder(
    root: Path,
    out: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Description:
    """Look at a folder, and write ``labelled.txt``, ``unlabelled.txt``, ``val.txt`` and ``config.yaml`` to ``out``.

    Without masks, ``unlabelled.txt`` alone is written.

    Args:
        root: The folder.
        out: Folder to write to; of what is there, only files that this command wrote are replaced.
        seed: Of the draw of validation images.
        progress: Called with (images read, images in all).
        tell: Called with a line before other work that may take long.

    Raises:
        ValueError: The folder cannot be understood, or a file in ``out`` is not ours.
    """
    ours = _OwnFiles(root)
    if not root.is_dir():
        raise ValueError(f"DATA must be a folder of images, got {str(root)!r}, which is not there or no folder")
    _outputs(out)  # refuses now what would be refused after the masks are read
    files = [file for file in find_files(root) if file not in ours]
    odd = [file for file in files if _cannot_be_listed(file)]
    pictures = [file for file in files if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES and file not in set(odd)]
    pairing = pair_up(pictures, lambda name: is_index_png(root / name))
    if not pairing.masks:
        raise ValueError(
            f"{root}: must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), got none among its {len(files)} files"
            + (f": its {len(pairing.lonely)} pictures are masks, {pairing.lonely[0]}, ..." if pairing.lonely else "")
        )
    contents = read_contents(root, pairing.masks, progress)
    masks = {
        image: mask if mask in contents.values else None
        for image, mask in pairing.masks.items()
        if image in contents.sizes
    }
    if not masks:
        raise ValueError(f"{root}: must hold readable images, got {next(iter(contents.faults.values()))}")
    sound = [mask for mask in masks.values() if mask is not None]
    notes = _notes(pairing, contents, odd)
    if len(sound) < 2:
        return _without_masks(root, out, list(masks), pairing, contents, notes, len(sound))
    values = sorted(set().union(*(contents.values[mask] for mask in sound)))
    classes = choose_classes(values, find_names(root, files), sound)
    parts = choose_parts(root, files, masks, seed=seed)
    if not parts.labelled or not parts.val:
        raise ValueError(
            f"{root}: must hold images with masks both to train and to validate, got {len(parts.labelled)} and "
            f"{len(parts.val)}: add masks, or name a part of the images with masks in a list val.txt"
        )
    return _write(root, out, masks, parts, classes, contents, values, [*notes, *parts.notes], tell)


def _outputs(out: Path) -> Outputs:
    return Outputs(out, [*(Path(f"{part}.txt") for part in PARTS), _CONFIG], option="--out")


def _cannot_be_listed(name: str) -> bool:
    foreign = name != name.encode(errors="ignore").decode()  # bytes that are no UTF-8
    return foreign or any(character in name for character in "\t\r\n\\") or name != name.strip()


def _notes(pairing: Pairing, contents: Contents, odd: list[str]) -> list[str]:
    """Sentences on files that are not used."""
    masks = [mask for mask in pairing.masks.values() if mask in contents.faults]
    images = [image for image in pairing.masks if image in contents.faults]
    notes = []
    if masks:
        notes.append(
            f"{len(masks)} of {sum(map(bool, pairing.masks.values()))} masks cannot be used, and their images count as "
            f"unlabelled: {'; '.join(f'{mask}: {contents.faults[mask]}' for mask in masks[:3])}"
            f"{'; ...' if len(masks) > 3 else ''}"
        )
    if images:
        notes.append(f"{counted(len(images), 'image')} not readable, and in no list: {contents.faults[images[0]]}")
    for names, noun, what in (
        (pairing.lonely, "mask", "without an image of that name"),
        (
            pairing.passed_over,
            "picture",
            "neither an image nor its mask (instances, depth, colours, a second mask)",
        ),
        (odd, "name", "in no list: no UTF-8, or a TAB, a line end, a backslash or outer blanks"),
    ):
        if names:
            notes.append(f"{counted(len(names), noun)} {what}: {names[0]!r}{', ...' * (len(names) > 1)}")
    return notes


def _without_masks(
    root: Path, out: Path, images: list[str], pairing: Pairing, contents: Contents, notes: list[str], sound: int
) -> Description:
    """Write the list of images to label; refuse masks none of which can be read."""
    faulty = [mask for mask in pairing.masks.values() if mask in contents.faults]
    if faulty and not sound:
        raise ValueError(
            f"{root / faulty[0]}: a mask must be an 8-bit PNG of one channel or with a palette, of its image's size, "
            f"that holds the index of each pixel's class, got {contents.faults[faulty[0]]}: none of the {len(faulty)} "
            "masks can be used; convert them, and repeat the command"
        )
    _outputs(out).write(Path("unlabelled.txt"), _list_text((image, None) for image in images))
    missing = (
        f"{'only 1 image has' if sound else 'no image has'} a mask, and 2 are needed, one to train and one to validate "
        "(20 or more are better)"
    )
    how = (
        "label some images with any tool that exports 8-bit PNGs of class indices, 0, 1, 2, ..., and 255 for no label: "
        f"the mask of {images[0]} is {root / place_of_mask(images[0])}, of the same size; names of the "
        "classes, one a line, go to "
        f"{root / 'classes.txt'}; then repeat the command"
    )
    return Description(
        None, {"unlabelled": out / "unlabelled.txt"}, {"unlabelled": len(images)}, (), (*notes, missing, how)
    )


def _write(
    root: Path,
    out: Path,
    masks: Mapping[str, str | None],
    parts: Parts,
    classes: Classes,
    contents: Contents,
    values: list[int],
    notes: list[str],
    tell: Callable[[str], None],
) -> Description:
    """Write lists and configuration, and read them again as training will."""
    lists = {part: (out / f"{part}.txt").resolve() for part in PARTS}
    data = FolderData(
        root=str(root.resolve()),
        images="{}",
        labels="{}",
        val_images="{}",
        val_labels="{}",
        labelled=str(lists["labelled"]),
        unlabelled=str(lists["unlabelled"]),
        val=str(lists["val"]),
        num_classes=classes.num_classes,
        label_ignore=classes.label_ignore,
        label_map=classes.label_map,
        class_names=classes.names,
    )
    trained = {*parts.labelled, *parts.unlabelled}
    config, why = choose_settings(data, [contents.sizes[image] for image in trained], tell)
    paths = "lists hold whole paths, below the root"
    reasons = (
        {"data.root": "as given"}
        | {f"data.{name}": paths for name in ("images", "labels", "val_images", "val_labels")}
        | {f"data.{part}": f"{counted(len(getattr(parts, part)), 'image')}: {parts.why[part]}" for part in PARTS}
        | _class_reasons(classes, values)
    )
    comments = reasons | why
    images = {part: [(i, masks[i] if part != "unlabelled" else None) for i in getattr(parts, part)] for part in PARTS}
    outputs = _outputs(out)
    for part, path in lists.items():
        outputs.write(Path(path.name), _list_text(images[part]))
    outputs.write(_CONFIG, _config_text(config, comments, [f"{root.resolve()}, as fpl-fast init found it.", *notes]))
    read = read_splits(data, unlabelled=True)
    assert all(
        [(pair.image, pair.label) for pair in read[part].pairs] == [(i, m or i) for i, m in images[part]]
        for part in PARTS
    )
    counts = {part: len(images[part]) for part in PARTS}
    return Description(out / _CONFIG, lists, counts, _choice_lines(config, comments), tuple(notes))


def _choice_lines(config: RunConfig, reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Format ``key = value: reason``, in the order of the configuration."""
    return tuple(
        f"{section}.{key} = {_flow(value)}: {reason}"
        for section, settings in config_to_dict(config).items()
        for key, value in (settings.items() if isinstance(settings, dict) else ())
        if (reason := reasons.get(f"{section}.{key}"))
    )


def _class_reasons(classes: Classes, values: list[int]) -> dict[str, str]:
    """Reasons of the classes and the ignored values, by setting."""
    reasons = {f"data.{name}": text for name, text in classes.why.items() if name != "ignored"}
    if classes.label_map and 255 in classes.label_map:
        return reasons
    ignored = "255 means no label, as usual" + (", and masks hold it" if 255 in values else "; no mask holds it")
    reasons["data.ignore_index"] = ignored
    if "ignored" in classes.why:
        reasons["data.label_ignore"] = (
            f"{value_ranges(classes.label_ignore)} means no label, too: {classes.why['ignored']}"
            if classes.label_ignore
            else classes.why["ignored"]
        )
    return reasons


def _list_text(images: Iterable[tuple[str, str | None]]) -> bytes:
    """Format a list of images and their masks; a leading slash lets a name begin with ``#``."""
    lines = []
    for image, mask in images:
        names = [f"/{name}" if name.startswith("#") else name for name in (image, image if mask is None else mask)]
        alone = mask is None and len(image.split()) == 1
        lines.append(names[0] if alone else "\t".join(names))
    return "".join(f"{line}\n" for line in lines).encode()


def _config_text(config: RunConfig, comments: Mapping[str, str], head: Iterable[str]) -> bytes:
    """Format a configuration as YAML with a comment above each setting that has a reason."""
    lines = [f"# {' '.join(line.split())}" for line in head]
    for section, settings in config_to_dict(config).items():
        if not isinstance(settings, dict):
            lines.append(_yaml_line(section, settings))
            continue
        lines.append(f"{section}:")
        for key, value in settings.items():
            reason = comments.get(f"{section}.{key}")
            lines += [f"  # {' '.join(reason.split())}"] if reason else []
            lines.append(f"  {_yaml_line(key, value)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _flow(value: Any) -> str:
    return _yaml_line("value", value).removeprefix("value:").strip()


def _yaml_line(key: str, value: Any) -> str:
    flow = yaml.safe_dump({key: value}, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return flow.strip().removeprefix("{").removesuffix("}")
