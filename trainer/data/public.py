"""Common parts of the public data sets: lists of public names, partitions, and files that follow a layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.data.lists import Pair, Split, read_list
from fpl_fast.trainer.data.partition import choose_labelled
from fpl_fast.trainer.data.sample import Palette

__all__ = ["DENOMINATORS", "PublicDataset", "PublicLists", "image_id", "name_others"]

DENOMINATORS = (32, 16, 8, 4, 2)


def name_others(root: Path) -> str:
    """Give advice on a missing list."""
    return "; --data.root names the folder of the lists, --data.train, data.labelled and data.val name others"


@dataclass(frozen=True, slots=True)
class PublicDataset:
    """The classes of a data set and the places of its lists and files.

    Attributes:
        class_names: In the order of the indices that labels hold.
        palette: Colours of the classes.
        train: List of all training images, relative to the root.
        val: List of the validation images.
        partitions: List of a part; the first {} stands for "labeled" or "unlabeled", the second for the denominator.
        locate: Maps the root, the entries of a list and its name to paths below the root.
        scan: Maps the root and the name of ``train`` or ``val`` to the entries of this list, if the files alone
            determine them; otherwise to none.
        class_of_stored: Class of each value that label files hold, None for no label; default the value itself.
        where_missing: Maps a missing file to the text to append to its message.
        where_no_list: Maps the root to the text to append to the message about a missing list.
    """

    class_names: tuple[str, ...]
    palette: Palette
    train: str
    val: str
    partitions: str
    locate: Callable[[Path, Sequence[Pair], str], list[Pair]]
    scan: Callable[[Path, str], list[Pair]]
    class_of_stored: Mapping[int, int | None] | None = None
    where_missing: Callable[[Path], str] | None = None
    where_no_list: Callable[[Path], str] = name_others


def image_id(image: str) -> str:
    """Find the name of an image, which is the same in every layout.

    Example:
        >>> image_id("leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png")
        'ulm_000001_000019'
    """
    return PurePosixPath(image).stem.removesuffix("_leftImg8bit")


class PublicLists:
    """The parts of a public data set.

    A list that exists is read unchanged. Without the list of a part, its labelled images are chosen by name
    (partition.py) from the training list, nested with the existing lists of other parts. Without the list of the
    unlabelled images, they are all other training images.

    Args:
        public: The data set.
        root: Root of the data set.
        train: List of all training images, by default the public one.

    Raises:
        ValueError: From the methods, where a list is missing or malformed.
    """

    def __init__(self, public: PublicDataset, root: Path, *, train: str | None = None) -> None:
        self.public, self.root, self._train = public, root, train

    def read(self, name: str) -> Split:
        """Read the images of a list file; the whole training and validation lists may be missing if files suffice."""
        absent = name in (self.public.train, self.public.val) and not (self.root / name).is_file()
        scanned = self.public.scan(self.root, name) if absent else []
        pairs = scanned or read_list(self.root / name, self.root, where_missing=self.public.where_no_list(self.root))
        pairs = self.public.locate(self.root, pairs, name)
        return Split(tuple(pairs), f"all {PurePosixPath(name).stem} images, sorted" if scanned else name)

    def train(self) -> Split:
        """Read all training images, from their list or from a labelled and an unlabelled list that share them out."""
        name = self._train or self.public.train
        for denominator in DENOMINATORS if self._train is None and not (self.root / name).is_file() else ():
            names = [self.public.partitions.format(kind, denominator) for kind in ("labeled", "unlabeled")]
            if all((self.root / part).is_file() for part in names):
                labelled, unlabelled = map(self.read, names)
                return Split(labelled.pairs + unlabelled.pairs, " + ".join(names))
        return self.read(name)

    def labelled(self, denominator: int, seed: int) -> Split:
        """Read or choose the labelled part 1 / denominator."""
        known = {
            other: self.read(name)
            for other in DENOMINATORS
            if (self.root / (name := self.public.partitions.format("labeled", other))).is_file()
        }
        if denominator in known:
            return known[denominator]
        train = self.train()
        chosen = choose_labelled(
            list({image_id(pair.image) for pair in train.pairs}),
            denominator,
            known={other: {image_id(pair.image) for pair in split.pairs} for other, split in known.items()},
            seed=seed,
        )
        inside = max((other for other in known if other < denominator), default=None)
        pool = train.origin if inside is None else known[inside].origin
        pairs = sorted((pair for pair in train.pairs if image_id(pair.image) in chosen), key=lambda pair: pair.image)
        return Split(tuple(pairs), f"1/{denominator} of the training images, chosen by name from {pool}, seed {seed}")

    def unlabelled(self, denominator: int, labelled: Split) -> Split:
        """Read the unlabelled list of a listed part 1 / denominator; otherwise take all images not in ``labelled``."""
        names = [self.public.partitions.format(kind, denominator) for kind in ("labeled", "unlabeled")]
        if labelled.origin == names[0] and (self.root / names[1]).is_file():
            return self.read(names[1])
        taken = {image_id(pair.image) for pair in labelled.pairs}
        train = self.train()
        pairs = tuple(pair for pair in train.pairs if image_id(pair.image) not in taken)
        if not pairs:
            raise ValueError(f"{train.origin}: must name more images than {labelled.origin}, got no unlabelled ones")
        return Split(pairs, f"{train.origin} without the labelled images")
