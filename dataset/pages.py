"""Pages of TIFF files: each is an image of its own, called by the name of its file and its number (name_0001)."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path

from core.i18n import tr, trn
from core.threads.workers import parallel
from dataset.decoding.tiff import count_pages
from dataset.faults import Fault
from dataset.pairing import Candidate, Pairing
from dataset.splitting.assignment import SplitPlan

_PAGE_NAME = re.compile(r"(.+)_(\d{4,})")
_TIFF_SUFFIXES = (".tif", ".tiff")


def page_name(name: str, page: int) -> str:
    """Return the name of a page (0, 1, ...) of a file with this name."""
    return f"{name}_{page + 1:04}"


def count_pages_of(path: Path) -> int:
    """Return the number of pages of an image file; 1 also for a file that cannot be read, which reading will say."""
    try:
        return count_pages(path)
    except OSError:
        return 1


def find_page(name: str, files: Container[str]) -> tuple[str, int | None]:
    """Return the name of the file that a pair's name means, and its page; None for all of it."""
    found = _PAGE_NAME.fullmatch(name)
    if name in files or found is None or found[1] not in files:
        return name, None
    return found[1], int(found[2]) - 1


def expand_pages(pairing: Pairing, files: Mapping[str, Path], count: Callable[[Path], int] = count_pages_of) -> Pairing:
    """Return a pairing in which each page of a TIFF file of several is a pair; `count` returns the pages of a file.

    A mask of another number of pages than its image is a fault.
    """
    possible = [
        c for c in pairing.candidates if any(name.lower().endswith(_TIFF_SUFFIXES) for name in (c.image, c.mask))
    ]
    counts: dict[Candidate, tuple[int, int]] = {}
    for candidate, found in parallel(lambda c: (count(files[c.image]), count(files[c.mask])), possible):
        if isinstance(found, Exception):
            raise found
        counts[candidate] = found
    candidates: list[Candidate] = []
    faults = list(pairing.faults)
    names: dict[str, list[str]] = {}
    for candidate in pairing.candidates:
        pages, of_mask = counts.get(candidate, (1, 1))
        if pages != of_mask:
            faults.append(_page_fault(candidate, pages, of_mask))
        elif pages > 1:
            made = [replace(candidate, name=page_name(candidate.name, page), page=page) for page in range(pages)]
            names[candidate.name] = [page.name for page in made]
            candidates += made
        else:
            candidates.append(candidate)
    conflicts = _check_names(candidates)
    if conflicts:  # with a fault, which pair is kept does not matter, but names have to be unique
        candidates = list({(c.split, c.name): c for c in candidates}.values())
    faults += conflicts
    return Pairing(candidates, faults, _expand_plan(pairing.plan, names))


def _page_fault(candidate: Candidate, pages: int, of_mask: int) -> Fault:
    """Return the fault of a mask with another number of pages; with one page, those of its image may be its bands."""
    expected = trn("{count} page, as {image} has", "{count} pages, as {image} has", pages, image=candidate.image)
    if of_mask == 1:
        expected += " " + tr(
            "(if they are bands of one image, save it as one page: {call})",
            call="tifffile.imwrite(path, bands, photometric='minisblack', planarconfig='separate')",
        )
    return Fault(candidate.mask, expected, trn("{count} page", "{count} pages", of_mask))


def _check_names(candidates: list[Candidate]) -> list[Fault]:
    """Return a fault for each image that is called like a page of another one."""
    files = {(c.split, c.name): c.image for c in candidates if c.page is None}
    pages = [c for c in candidates if c.page is not None and (c.split, c.name) in files]
    return [
        Fault(
            files[c.split, c.name],
            tr("a name that no page has"),
            tr("also page {number} of {image}", number=c.page + 1, image=c.image),
        )
        for c in pages
        if c.page is not None
    ]


def _expand_plan(plan: SplitPlan | None, names: Mapping[str, list[str]]) -> SplitPlan | None:
    if plan is None:
        return None
    splits = {page: split for name, split in plan.splits.items() for page in names.get(name, [name])}
    return replace(plan, splits=splits)
