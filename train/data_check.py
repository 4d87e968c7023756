"""What train.py --check-only does: check the data, and report it as text or JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from config import Settings
from core.console import print_result
from core.console_reporter import ConsoleReporter
from core.errors import AppError, one_line
from core.reporting import result as report_result
from core.reporting import use_reporter
from dataset.checks.few_images import propose_folds
from dataset.checks.inspection import Inspection
from dataset.checks.page import write_page
from dataset.checks.report import report
from dataset.decoding.options import options_of
from dataset.faults import DataFaults, Fault
from dataset.sources.files import LOCAL_FILES, FileSource
from dataset.summary import list_left_out, summary
from dataset.validation import inspect_data


@contextlib.contextmanager
def json_output(place: str, expected: str) -> Iterator[None]:
    """Let messages go to standard error, as a program reads standard output; print an error as a fault there.

    An error keeps its exit code. It is a fault of `place`, where `expected` was wanted, unless it has faults of its own.
    """
    use_reporter(ConsoleReporter(to_stderr=True))
    try:
        yield
    except _PrintedFaults:
        raise
    except (AppError, OSError) as error:
        inspection = Inspection(Path(place), {})
        inspection.add(error.faults if isinstance(error, DataFaults) else [Fault(place, expected, one_line(error))])
        _print_json(inspection)
        raise


class _PrintedFaults(DataFaults):
    """Faults that are on standard output already, as JSON."""


def check(settings: Settings, data_ref: str | None, as_json: bool) -> None:
    """Report what is known of the data, as text or JSON, and draw the first pairs. Raises DataFaults after that."""
    with open_files(settings, data_ref) as (folder, source):
        inspection = inspect_data(folder, settings.seed, options_of(settings), settings.split_group, source)
        if data_ref is None:
            write_page(inspection)
        if as_json:
            _print_json(inspection)
        if inspection.faults and as_json:
            raise _PrintedFaults(inspection.faults)
        if inspection.faults:
            if inspection.left_out:
                report_result(list_left_out(folder, source, inspection.left_out))
            raise DataFaults(inspection.faults)
        if not as_json:
            data = inspection.data()
            report_result(summary(data, list_all=True))
            if settings.folds is None and (proposal := propose_folds(data)):
                report_result(proposal)


def _print_json(inspection: Inspection) -> None:
    print_result(json.dumps(report(inspection), ensure_ascii=False, indent=2))


@contextlib.contextmanager
def open_files(settings: Settings, data_ref: str | None) -> Iterator[tuple[Path, FileSource]]:
    """Yield the data directory, or that of a commit, and what reads its files within the block."""
    if data_ref is None:
        yield settings.data_dir, LOCAL_FILES
        return
    from utils.lakefs_utils import connect
    from versioning.checkout import open_commit

    with connect(settings) as lake:
        yield open_commit(settings, lake, data_ref)[1:]
