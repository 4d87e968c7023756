"""What a data check finds: faults, which stop the training, warnings, and files that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.console import format_table
from core.errors import UsageError
from core.i18n import tr, trn
from dataset.classes import InvalidFileError

MAX_ROWS = 200  # of the printed table

# Kinds of warnings: the validation split does not tell good models from bad ones.
SMALL_SPLIT = "small-split"  # it has SMALL_SPLIT_IMAGES images or fewer
ABSENT_CLASS = "absent-class"  # a class that other splits have has no labelled pixel in it; so it may have one class
SMALL_SPLIT_IMAGES = 10
FEW_GROUPS = "few-groups"  # val has fewer than GROUPS_TO_DECIDE: no gain can be told from chance
GROUPS_TO_DECIDE = 3  # with two, Student's factor is 12.7: no gain of practical size would pass
INTERPOLATED_MASKS = "interpolated-masks"  # classes that look like mixtures of others; val's labels may have them, too
# The kinds that count against the promotion of a model that was trained with them; see registry/judging/gate.py.
UNINFORMATIVE_KINDS = frozenset({SMALL_SPLIT, ABSENT_CLASS, INTERPOLATED_MASKS})


@dataclass(frozen=True, order=True)
class Fault:
    """One problem to fix; `file` is the relative '/' path."""

    file: str
    expected: str
    found: str


@dataclass(frozen=True, order=True)
class DataWarning:
    """Something that makes a result less trustworthy; it is printed, recorded with the run and stored with the model."""

    kind: str  # a fixed identifier such as 'absent-class', for programs
    text: str  # one sentence for people
    split: str = ""  # that it is about; empty: about all of the data

    def counts_against(self, split: str) -> bool:
        """Return whether this makes the validation split, or the split that judges, uninformative."""
        return self.kind in UNINFORMATIVE_KINDS and self.split in ("", "val", split)


@dataclass(frozen=True, order=True)
class LeftOut:
    """A file of the data directory that is not part of the data set; `file` is the relative '/' path."""

    file: str
    reason: str


class DataFaults(UsageError):
    """All faults of a data directory; its text is a headline and the table of the faults."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        count, more = len(self.faults), len(self.faults) - MAX_ROWS
        rows = [(fault.file, fault.expected, fault.found) for fault in self.faults[:MAX_ROWS]]
        headers = (tr("file"), tr("expected"), tr("found"))
        head = trn("{count} fault in the data", "{count} faults in the data", count)
        rest = tr("\n… and {more} more", more=more) if more > 0 else ""
        super().__init__(f"{head}\n\n{format_table(headers, rows)}{rest}")


def faults_from_error(file: str, error: InvalidFileError) -> list[Fault]:
    """Return a fault of `file` for each problem of the error."""
    return [Fault(file, expected, found) for expected, found in error.problems]


def warning_records(warnings: Iterable[DataWarning]) -> list[dict[str, str]]:
    """Return warnings as they are stored with models and runs."""
    return [{"kind": warning.kind, "text": warning.text, "split": warning.split} for warning in warnings]


def parse_warnings(records: Iterable[Mapping[str, str]]) -> tuple[DataWarning, ...]:
    """Return the warnings of `warning_records`. Raises KeyError or TypeError for other content."""
    return tuple(DataWarning(str(row["kind"]), str(row["text"]), str(row.get("split", ""))) for row in records)
