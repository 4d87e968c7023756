"""Find the images that annotation files name, their sizes, and the split that a name stands for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from core.i18n import tr
from dataset.classes import InvalidFileError, abbreviate
from dataset.decoding.header import image_sizes
from dataset.directory import composed, is_image
from dataset.faults import DataFaults, Fault
from dataset.formats.source import Source

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGE_DIRECTORIES = ("images", "img", "imgs", "image")


def split_of(text: str) -> str | None:
    """Return the split that a file or directory name contains as a word: `instances_train2017` is train."""
    found = {_SPLIT_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def split_of_directories(path: str) -> str | None:
    """Return the split of a file by the directories that it is in, if one of them is named exactly like a split."""
    found = {_SPLIT_WORDS[part.lower()] for part in path.split("/")[:-1] if part.lower() in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def item_name(path: str) -> str:
    """Return the name of an item: the path of its image without suffix and without leading images/ and train/."""
    parts = path.rpartition(".")[0].split("/")
    while len(parts) > 1 and parts[0].lower() in (*_IMAGE_DIRECTORIES, *_SPLIT_WORDS):
        parts = parts[1:]
    return "/".join(parts)


class ImageIndex:
    """The images of an export, found by what annotation files call them.

    Those names come from other machines: absolute paths, backslashes, directories that the export does not have. They
    are only compared with the files of the export, so that no name leads out of it.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.used: set[str] = set()
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for path in source.files:
            if is_image(path):
                self._by_name.setdefault(composed(posixpath.basename(path)), []).append(path)
                self._by_stem.setdefault(composed(path.rpartition(".")[0]), []).append(path)

    def require_images(self) -> None:
        """Raise DataFaults if the export has no images at all, which is one fault rather than one for each of them."""
        if not self._by_name:
            expected = tr("the images of the export (in CVAT: 'Save images'; else put them into a directory images/)")
            raise DataFaults([Fault("images/", expected, tr("none"))])

    def with_stem(self, stem: str) -> list[str]:
        """Return the images with this path, apart from the suffix."""
        return [path for path in self._by_stem.get(composed(stem), []) if path not in self.used]

    def find(self, name: str, near: Sequence[str] = (), split: str | None = None) -> str:
        """Return the path in the export of the image that a file names; `near` are directories to look in first.

        Of images with the same name, the one in a directory of the `split` is meant.

        Raises InvalidFileError if there is no such image, or more than one.
        """
        wanted = composed(name.replace("\\", "/"))
        candidates = self._by_name.get(posixpath.basename(wanted), [])
        exact = {composed(path): path for path in candidates}
        for directory in near:
            path = posixpath.normpath(posixpath.join(directory, wanted))
            if path in exact:
                return self._use(exact[path])
        # The longest common end decides: `D:/work/val/a.jpg` is `images/val/a.jpg` rather than `images/train/a.jpg`.
        length = {path: _common_end(wanted, composed(path)) for path in candidates}
        best = [path for path in candidates if length[path] == max(length.values())]
        if len(best) > 1 and split:
            best = [path for path in best if any(split_of(part) == split for part in path.split("/")[:-1])] or best
        if len(best) == 1:
            return self._use(best[0])
        expected = tr("the image '{name}' in the export", name=name)
        raise InvalidFileError(
            (
                expected,
                tr("{count} of them: {paths}", count=len(best), paths=abbreviate(best, 3)) if best else tr("none"),
            )
        )

    def _use(self, path: str) -> str:
        self.used.add(path)
        return path

    def unused(self) -> list[str]:
        """Return the images that no annotation file named, sorted."""
        return sorted({path for paths in self._by_name.values() for path in paths} - self.used)

    def size(self, path: str) -> tuple[int, int]:
        """Return height and width of an image, upright. Raises InvalidFileError for one that cannot be read."""
        return image_sizes(self.source.files[path])[0]

    def check_size(self, path: str, height: object, width: object) -> tuple[int, int]:
        """Return height and width of an image whose annotations were made for this size; None: it is not known.

        Raises InvalidFileError for another size: the shapes would be in the wrong place.
        """
        found, stored = image_sizes(self.source.files[path])
        if (height is None and width is None) or (height, width) == found:
            return found
        expected = tr("annotations for {width}x{height} (size of {file})", width=found[1], height=found[0], file=path)
        text = f"{width}x{height}"
        if (height, width) == stored:
            text += tr(" (drawn on the image without its EXIF orientation: rotate the image and annotate it again)")
        raise InvalidFileError((expected, text))


def _common_end(first: str, second: str) -> int:
    """Return how many path components two paths have in common at their end."""
    count = 0
    for one, other in zip(reversed(first.split("/")), reversed(second.split("/")), strict=False):
        if one != other:
            break
        count += 1
    return count
