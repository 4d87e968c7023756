"""What is wrong with the name of a network or an encoder, and the names that timm knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from core.errors import UsageError
from core.i18n import tr
from dataset.classes import abbreviate
from segmentation.archive.entries import shown

LISTED = 20  # names in an error
TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)


def is_timm_name(name: str) -> bool:
    """Return whether timm has this network built in; its other names are places on a hub or in the file system."""
    import timm

    return bool(TIMM_NAME.fullmatch(name)) and bool(timm.is_model(name))


def check_timm_weights(name: str) -> None:
    """Raise UsageError if timm knows no published weights for the network of that name."""
    import timm

    if not timm.models.is_model_pretrained(name):
        raise no_published_weights(name)


def no_published_weights(name: str) -> UsageError:
    """Return the error for a network, or an encoder, without published weights."""
    return UsageError(
        tr("no weights are published for '{name}': leave out --pretrained, or choose another --model", name=name)
    )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not among the known ones; it lists some of them, and the nearest one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=LISTED)
    meant = tr(" (did you mean '{near}'?)", near=near[0]) if near else ""
    if len(names) > LISTED:  # timm has more than a thousand: those that are nearest, then the first ones
        names = [*near, *(name for name in names if name not in near)]
    listed = abbreviate(names, LISTED)
    return UsageError(
        tr(
            "unknown {kind} '{name}'{meant}: available: {listed}",
            kind=kind,
            name=shown(name),
            meant=meant,
            listed=listed,
        )
    )
