"""Run lengths: COCO's masks (plain and compressed), and the bit stream of Label Studio's brush."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.i18n import tr, trn
from dataset.classes import InvalidFileError
from dataset.shapes.polygon import Bool

Counts = npt.NDArray[np.int64]

MAX_RUN = 1 << 40  # pixels; no image has as many
_LITERAL_BITS = (3, 4, 8, 16)  # Label Studio's brush: bits of the length of a run, of which each run names one
_CHANNELS = 4  # of the brush's pixels, RGBA


# --- COCO ------------------------------------------------------------------------------------------------


def decode_coco(counts: object, height: int, width: int) -> Bool:
    """Return (height,width) bool of COCO's `counts`: a list of run lengths, or the string that pycocotools writes.

    Runs go down the columns, and the first one is of pixels outside the object. Raises InvalidFileError.
    """
    runs = decompress(counts) if isinstance(counts, str) else _as_runs(counts)
    # Each run is compared too: the 64 bits of a sum wrap around, and np.repeat would write beyond the end of its result.
    if ((runs < 0) | (runs > height * width)).any() or int(runs.sum()) != height * width:
        raise _wrong_total(sum(runs.tolist()), height, width)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _wrong_total(found: int, height: int, width: int) -> InvalidFileError:
    expected = trn(
        "run lengths of {width}x{height} = {count} pixel",
        "run lengths of {width}x{height} = {count} pixels",
        height * width,
        width=width,
        height=height,
    )
    return InvalidFileError((expected, trn("{count} pixel", "{count} pixels", found)))


def _as_runs(counts: object) -> Counts:
    if not isinstance(counts, list) or not all(type(run) is int and 0 <= run < MAX_RUN for run in counts):
        raise InvalidFileError((tr("run lengths: whole numbers from 0, or a string"), tr("other values")))
    return np.array(counts, np.int64)


def decompress(text: str) -> Counts:
    """Return the run lengths of COCO's compressed string. Raises InvalidFileError.

    Each number has one character for every 5 bits, the lowest first; from the third run on it is the difference to the
    last run of the same kind.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 40:
            raise InvalidFileError(
                (tr("compressed run lengths"), tr("the character '{character}'", character=character))
            )
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # more characters follow
            continue
        if code & 16:  # the sign
            value -= 1 << shift
        run = value + (runs[-2] if len(runs) > 2 else 0)
        if abs(run) >= MAX_RUN:
            raise InvalidFileError((tr("run lengths of an image"), str(run)))
        runs.append(run)
        value = shift = 0
    if shift:
        raise InvalidFileError((tr("compressed run lengths"), tr("a string that ends within a number")))
    return np.array(runs, np.int64)


def encode_coco(mask: Bool) -> list[int]:
    """Return the run lengths of a mask (H,W) bool as COCO's plain `counts`."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


# --- Label Studio ----------------------------------------------------------------------------------------


class _Bits:
    """Numbers of any width from a sequence of bytes, the highest bit first."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position, self.count = content, 0, 8 * len(content)

    def read(self, width: int) -> int:
        start, self.position = self.position, self.position + width
        if self.position > self.count:
            raise InvalidFileError((tr("complete brush data"), tr("data that ends early")))
        block = self.content[start // 8 : (self.position + 7) // 8]
        return int.from_bytes(block) >> (-self.position % 8) & ((1 << width) - 1)


def decode_brush(values: object, height: int, width: int) -> Bool:
    """Return (height,width) bool of a brush's `rle`, a list of bytes: where its RGBA pixels are not transparent.

    Raises InvalidFileError.
    """
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise InvalidFileError((tr("brush data: a list of bytes"), tr("other values")))
    bits = _Bits(bytes(values))
    count, word = bits.read(32), bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if word != 8:
        raise InvalidFileError((tr("brush data of 8 bits per value"), tr("{count} bits", count=word)))
    if count != height * width * _CHANNELS:
        raise _wrong_total(count // _CHANNELS, height, width)
    pixels = np.zeros(count, np.uint8)
    position = 0
    while position < count:
        repeated = bits.read(1)
        end = position + bits.read(lengths[bits.read(2)]) + 1
        if end > count:
            raise InvalidFileError((tr("complete brush data"), tr("a run beyond the last pixel")))
        if repeated:
            pixels[position:end] = bits.read(8)
        else:
            run = bits.read(8 * (end - position)).to_bytes(end - position)
            pixels[position:end] = np.frombuffer(run, np.uint8)
        position = end
    return pixels.reshape(height, width, _CHANNELS)[..., 3] > 0


def encode_brush(mask: Bool) -> list[int]:
    """Return the `rle` of a brush for a mask (H,W) bool: opaque white pixels on transparent ones."""
    flat = mask.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    fields = [f"{flat.size * _CHANNELS:032b}", f"{8 - 1:05b}", *(f"{bits - 1:04b}" for bits in _LITERAL_BITS)]
    longest = 1 << _LITERAL_BITS[-1]
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        remaining, value = (end - start) * _CHANNELS, 255 if flat[start] else 0
        while remaining > 0:
            length = min(remaining, longest)
            size = next(index for index, bits in enumerate(_LITERAL_BITS) if length <= 1 << bits)
            fields.append(f"1{size:02b}{length - 1:0{_LITERAL_BITS[size]}b}{value:08b}")
            remaining -= length
    text = "".join(fields)
    padded = text.ljust(-(-len(text) // 8) * 8, "0")
    return list(int(padded, 2).to_bytes(len(padded) // 8)) if padded else []
