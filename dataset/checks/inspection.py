"""The state of a data check: what is known of a directory so far, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dataset.checks.masks.values import count_values
from dataset.classes import ClassMap
from dataset.data import Pair, SegmentationData
from dataset.decoding.options import DEFAULT_READING, ReadOptions
from dataset.directory import SPLITS
from dataset.faults import DataFaults, DataWarning, Fault, LeftOut
from dataset.layout.layout import Layout
from dataset.pair_reading import PairContent
from dataset.pairing import Pairing
from dataset.sources.files import LOCAL_FILES, FileSource
from dataset.splitting.assignment import Assignment
from dataset.splitting.groups import Groups


@dataclass
class Inspection:
    """What the check of a data directory knows; with faults, the fields from `layout` on may be incomplete."""

    root: Path
    files: dict[str, Path]  # relative '/' path -> path
    reading: ReadOptions = DEFAULT_READING  # after the check of the images, with what was measured from them
    bands: int = 3  # of the image files
    layout: Layout | None = None
    pairing: Pairing | None = None
    contents: list[PairContent] = field(default_factory=list)
    classes: ClassMap | None = None
    faults: list[Fault] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    groups: Groups | None = None
    assignment: Assignment | None = None  # of splits that this project made
    source: FileSource = LOCAL_FILES

    @property
    def own_split(self) -> bool:
        """Whether the split is made and stored by this project."""
        plan = self.pairing.plan if self.pairing is not None else None
        return plan is not None and plan.own

    def add(self, findings: Iterable[Fault | DataWarning | LeftOut]) -> None:
        """Record the findings of a check."""
        for finding in findings:
            if isinstance(finding, Fault):
                self.faults.append(finding)
            elif isinstance(finding, DataWarning):
                self.warnings.append(finding)
            else:
                self.left_out.append(finding)

    def class_counts(self) -> dict[str, Counter[int]]:
        """Return split -> mask value -> pixels, for the splits with a readable mask. Requires `classes`."""
        assert self.classes is not None
        counts = {split: Counter[int]() for split in SPLITS}
        for content in self.contents:
            if content.candidate.split:  # with faults, some are not assigned
                counts[content.candidate.split].update(count_values(content, self.classes))
        return {split: counted for split, counted in counts.items() if counted}

    def data(self) -> SegmentationData:
        """Return the checked data, with the pixels of each class counted by split. Raises DataFaults."""
        if self.faults:
            raise DataFaults(self.faults)
        assert self.layout is not None and self.classes is not None  # else a fault
        pairs: list[Pair] = []
        for content in self.contents:
            assert content.image_size is not None  # an unreadable image is a fault
            item = content.candidate
            image, mask = self.files[item.image], self.files[item.mask]
            checksums = content.image_sha256, content.mask_sha256
            group = self.groups.group_of(item.split, item.name) if self.groups is not None else None
            pairs.append(Pair(item.name, item.split, image, mask, *checksums, *content.image_size, item.page, group))
        counts, classes = self.class_counts(), self.classes
        return SegmentationData(
            root=self.root,
            pairs=tuple(pairs),
            classes=classes,
            pixel_counts={split: tuple(counted[value] for value in classes.ids) for split, counted in counts.items()},
            ignored_pixels={split: sum(counted[v] for v in classes.ignore_ids) for split, counted in counts.items()},
            reading=self.reading,
            bands=self.bands,
            layout=self.layout.describe(),
            class_file=self.layout.class_file in self.files,
            warnings=tuple(self.warnings),
            left_out=tuple(self.left_out),
            splits_root=self.root / self.layout.splits_root,
            groups=self.groups,
            source=self.source,
        )
