"""What one read of each pair gave, as JSON: data that has not changed need not be read again to be checked."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import dataset
from dataset.classes import ClassMap
from dataset.decoding.mask_facts import MaskFacts
from dataset.decoding.options import ReadOptions
from dataset.decoding.orientation import OrientationFacts
from dataset.decoding.value_range import BandValues
from dataset.pair_reading import ImageFacts, PairContent
from dataset.pairing import Candidate
from dataset.splitting.thumbnails import SIDE

Json = dict[str, Any]
_COUNTS = ("values", "between", "inside", "steep")  # of MaskFacts


def facts_key(manifest: str, classes: ClassMap | None, options: ReadOptions) -> str:
    """Return a hash of everything that decides the content of the pairs of a commit, the code that reads them included."""
    import PIL

    package = Path(str(dataset.__file__)).parent
    code = [*sorted((package / "decoding").glob("*.py")), package / "pair_reading.py", package / "classes.py"]
    parts = {
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*code, Path(__file__))],
        "decoder": (PIL.__version__, metadata.version("tifffile"), np.__version__),
        "manifest": manifest,
        "classes": classes.to_dict() if classes is not None else None,
        "reading": options.to_dict(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def encode_facts(contents: Iterable[PairContent]) -> str | None:
    """Return the facts of faultless pairs as lines of JSON; None if a pair has a fault, whose text is in one language."""
    lines = []
    for content in contents:
        if content.faults or content.image is None or content.mask is None or content.thumbnail is None:
            return None
        lines.append(json.dumps(_encode(content), separators=(",", ":")))
    return "".join(f"{line}\n" for line in lines)


def decode_facts(text: str, candidates: Sequence[Candidate]) -> list[PairContent] | None:
    """Return the facts of these pairs; None if they are those of others, or damaged."""
    lines = text.splitlines()
    if len(lines) != len(candidates):
        return None
    try:
        return [_decode(json.loads(line), candidate) for line, candidate in zip(lines, candidates, strict=True)]
    except (ValueError, TypeError, LookupError):
        return None


def _encode(content: PairContent) -> Json:
    assert content.image is not None and content.mask is not None and content.thumbnail is not None
    values, mask, item = content.image.values, asdict(content.mask), content.candidate
    counts = {name: list(mask[name].items()) for name in _COUNTS}
    measured = (
        None if values is None else {f.name: np.asarray(getattr(values, f.name)).tolist() for f in fields(values)}
    )
    return {
        "pair": [item.image, item.mask, item.page],
        "sha256": [content.image_sha256, content.mask_sha256],
        "sizes": [content.image_size, content.mask_size],
        "mask": mask | counts,
        "image": asdict(content.image) | {"values": measured},
        "orientation": None if content.orientation is None else asdict(content.orientation),
        "thumbnail": base64.b64encode(content.thumbnail.tobytes()).decode(),
    }


def _decode(facts: Json, candidate: Candidate) -> PairContent:
    """Return the facts of a pair. Raises ValueError, TypeError or LookupError for those of another."""
    if facts["pair"] != [candidate.image, candidate.mask, candidate.page]:
        raise ValueError(facts["pair"])
    mask, image, orientation = facts["mask"], facts["image"], facts["orientation"]
    counts = {name: {int(value): int(count) for value, count in mask[name]} for name in _COUNTS}
    palette = tuple((int(value), tuple(color)) for value, color in mask["palette"])
    values = image["values"]
    if values is not None:
        quantiles, second = (np.array(values[name], np.float64) for name in ("quantiles", "second"))
        values = BandValues(quantiles, int(values["count"]), second)
    thumbnail = np.frombuffer(base64.b64decode(facts["thumbnail"]), np.uint8).reshape(SIDE, SIDE)
    (height, width), (mask_height, mask_width) = facts["sizes"]
    return PairContent(
        candidate,
        image_sha256=str(facts["sha256"][0]),
        mask_sha256=str(facts["sha256"][1]),
        image_size=(int(height), int(width)),
        mask_size=(int(mask_height), int(mask_width)),
        mask=MaskFacts(**{**mask, **counts, "palette": palette}),
        image=ImageFacts(**{**image, "values": values}),
        thumbnail=thumbnail,
        orientation=None if orientation is None else OrientationFacts(**orientation),
    )
