"""Where a data directory keeps the images and masks of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataset.classes import CLASSES_FILE
from dataset.directory import GROUPS_FILE, is_image
from dataset.layout.vocabulary import IMAGES, MASKS

FLAT, SPLIT = "flat", "split"


@dataclass(frozen=True)
class Place:
    """The directories of one split, relative with '/' at the end; `split` is '' where splits are assigned later."""

    split: str
    images: str
    masks: str

    @property
    def canonical(self) -> bool:
        """Whether the directories have the names that this project itself uses."""
        prefix = f"{self.split}/" if self.split else ""
        return (self.images, self.masks) == (f"{prefix}{IMAGES}/", f"{prefix}{MASKS}/")


@dataclass(frozen=True)
class PlaceFiles:
    """The images and masks of a place, as pair name -> paths; more than one path of a name is a fault.

    The name of a pair is that of its image. `conflicts` are groups of paths of which no pairs can be told.
    """

    place: Place
    images: dict[str, list[str]]
    masks: dict[str, list[str]]
    conflicts: tuple[tuple[str, ...], ...] = ()
    rules: Mapping[str, int] = field(default_factory=dict)  # text on how mask names differ -> number of masks


@dataclass(frozen=True)
class Layout:
    """The places of a data directory, and its class list and split files."""

    kind: str  # FLAT: the splits are assigned; SPLIT: the directories are the splits
    parts: tuple[PlaceFiles, ...]
    prefix: str = ""  # 'export/' where everything is inside that directory
    class_file: str = CLASSES_FILE  # relative path; there may be no such file
    group_file: str = GROUPS_FILE  # likewise
    splits_root: str = ""  # relative directory of splits/, with '/' at the end
    unused_split_directories: bool = False  # images/train/ ... exist, but split files decide

    @property
    def canonical(self) -> bool:
        """Whether all directories have the names that this project itself uses."""
        return all(part.place.canonical for part in self.parts)

    @property
    def has_own_names(self) -> bool:
        """Whether the directories are the project's own, and each mask has the name of its image."""
        return self.canonical and not any(part.rules for part in self.parts)

    @property
    def complete(self) -> bool:
        """Whether each image has exactly one mask, and each mask one image."""
        return all(
            part.images.keys() == part.masks.keys()
            and not part.conflicts
            and all(len(paths) == 1 for files in (part.images, part.masks) for paths in files.values())
            for part in self.parts
        )

    def images(self, split: str) -> dict[str, list[str]]:
        """Return pair name -> paths of the images of a split; in the flat layout, of all splits."""
        return {name: paths for part in self._parts(split) for name, paths in part.images.items()}

    def masks(self, split: str) -> dict[str, list[str]]:
        """Return pair name -> paths of the masks of a split; in the flat layout, of all splits."""
        return {name: paths for part in self._parts(split) for name, paths in part.masks.items()}

    def _parts(self, split: str) -> list[PlaceFiles]:
        return [part for part in self.parts if part.place.split in ("", split)]

    def is_mask(self, path: str) -> bool:
        """Return whether a path is that of a mask file."""
        return is_image(path) and self.is_in_masks(path)

    def is_in_masks(self, path: str) -> bool:
        """Return whether a path is in a directory of masks."""
        return any(path.startswith(part.place.masks) for part in self.parts)

    def directories(self) -> tuple[str, ...]:
        """Return the directories of images and masks, with '/' at the end."""
        return tuple(directory for part in self.parts for directory in (part.place.images, part.place.masks))

    def describe(self) -> str:
        """Return the layout as one line: the directories, and how their names or those of masks differ."""
        if self.canonical:
            text = "images/ + masks/ + splits/" if self.kind == FLAT else "{train,val[,test]}/{images,masks}"
        else:
            text = ", ".join(_describe_place(part.place) for part in self.parts)
            text += f" + {self.splits_root}splits/" if self.kind == FLAT else ""
        rules = sorted({rule for part in self.parts for rule in part.rules})
        return text + (f" ({'; '.join(rules)})" if rules else "")


def _describe_place(place: Place) -> str:
    directories = f"{place.images} + {place.masks}"
    return f"{place.split}: {directories}" if place.split else directories
