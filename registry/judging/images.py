"""The images that decide: those of a split of the candidate's data; for folds those of train and val."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dataset.checks.committed_groups import add_groups
from dataset.samples import committed_items
from registry.judging.metrics import OUT_OF_FOLD
from registry.judging.overlap import JudgedImage, judged_images
from utils.lakefs_utils import LakePath
from versioning.provenance.training_images import FOLDS, images_of

if TYPE_CHECKING:
    from config import Settings
    from registry.judging.contestants import Contestant
    from utils.lakefs_utils import LakeFS


@dataclass(frozen=True)
class JudgedData:
    """Images of a data commit, with the groups that they belong to; `split` is 'val', 'test' or OUT_OF_FOLD."""

    data: LakePath
    split: str
    images: tuple[JudgedImage, ...]

    @property
    def out_of_fold(self) -> bool:
        """Whether each image is predicted by models of folds that held it out."""
        return self.split == OUT_OF_FOLD

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the data commit."""
        return FOLDS if self.out_of_fold else (self.split,)


def judged_data(settings: Settings, lake: LakeFS, one: Contestant) -> JudgedData:
    """Return the images on which a model is measured. Raises UsageError if its data has none.

    Folds leave no validation split: where that would decide, all images do that a fold held out.
    """
    cache, data = settings.cache_dir, one.lineage.data_path
    folds = one.is_ensemble and settings.register_split == "val"
    splits = [split for split in FOLDS if images_of(lake, data, split, cache)] if folds else [settings.register_split]
    images: list[JudgedImage] = []
    for split in splits:
        committed = committed_items(lake, data, split, cache)
        items = add_groups(lake, data, committed, cache, one.model.classes, one.model.reading, settings.split_group)
        if folds:  # names of two splits may be equal
            items = [item if item.group else replace(item, group=f"{split}/{item.name}") for item in items]
        images += judged_images(lake, data, split, items, cache)
    return JudgedData(data, OUT_OF_FOLD if folds else settings.register_split, tuple(images))
