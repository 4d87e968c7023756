"""Videos: every frame through a model, and the overlays as a video of the same length and timing. Needs PyAV."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.checksummed_json import with_checksum
from core.errors import AppError, UsageError
from core.files import atomic_replace, write_atomically
from core.hashing import file_sha256
from core.i18n import tr
from core.reporting import notify, progress
from dataset.classes import UInt8
from dataset.overlay import overlay
from inference import pipeline
from inference.batch_job import origin
from inference.inputs import VIDEO_SUFFIXES
from inference.outputs import class_shares, lock_output_dir
from segmentation.predictor import InputImage, Prediction, Predictor
from segmentation.preprocess import EVAL_BATCH
from utils.lineage import Lineage

# Whatever a file is called: FFmpeg knows formats that are lists of other files, or of places in the net.
ONLY = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}


def require_pyav(what: str) -> None:
    """Raises UsageError where the optional package is missing: before the work, not after it."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(tr("{what} needs PyAV: pip install av", what=what))


def chosen(inputs: Sequence[Path], output: Path) -> list[Path]:
    """The inputs where they are videos; none where they are pictures. Raises UsageError for what goes not together."""
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in inputs):
        return []
    require_pyav(tr("a video"))
    made = [(output / _overlay_name(path)).resolve() for path in inputs]
    for path, target in zip(inputs, made, strict=True):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError(tr("{path}: give pictures and videos in two calls", path=path))
        if not path.is_file():
            raise UsageError(tr("{path}: no such file", path=path))
        if path.resolve() in made or made.count(target) > 1:
            raise UsageError(
                tr(
                    "{path}: {target} would overwrite another: run them apart, or give another --output",
                    path=path,
                    target=target,
                )
            )
    return list(inputs)


def _overlay_name(source: Path) -> str:
    return f"{source.stem}_overlay.mp4"


@dataclass(frozen=True)
class Film:
    """Frames that come one after the other: of a file, or live. `name` is for errors, `count` known for most files."""

    name: str
    batches: Iterable[Sequence[Any]]  # of av.VideoFrame, whose times are in units of `time_base`
    rate: Fraction
    time_base: Fraction
    count: int | None = None


def predict_videos(predictor: Predictor, videos: Sequence[Path], lineage: Lineage, output: Path) -> int:
    """Predict videos into a folder. Raises AppError at the end for those that could not be read."""
    broken = []
    with lock_output_dir(output):
        for path in videos:
            try:
                made = predict_video(predictor, path, output, origin(predictor, lineage))
                notify(tr("predicted {path}: {made}", path=path, made=made))
            except UsageError as error:
                broken.append(str(error))
    if broken:
        raise AppError("\n".join(broken))
    return 0


def predict_video(predictor: Predictor, source: Path, folder: Path, record: dict[str, Any]) -> Path:
    """Write <name>_overlay.mp4 and, with `record` and the classes' shares, <name>_overlay.json; returns the first.

    The sound is left out. A kill leaves the old files or the new. Raises UsageError for a file that is no whole video.
    """
    import av

    made = folder / _overlay_name(source)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(source), options=ONLY) as clip:
            if not clip.streams.video:
                raise UsageError(tr("{source}: no video in it", source=source))
            stream = clip.streams.video[0]
            stream.thread_type = "AUTO"
            rate, base = stream.average_rate or Fraction(25), stream.time_base or Fraction(1, 90_000)
            film = Film(str(source), _batches(clip, stream), rate, base, stream.frames or None)
            return write_film(predictor, film, made, lambda: {**record, "input_sha256": file_sha256(source)})
    except av.error.FFmpegError as error:
        raise UsageError(tr("{source}: unreadable video ({error})", source=source, error=error)) from None


def write_film(predictor: Predictor, film: Film, made: Path, record: Callable[[], dict[str, Any]]) -> Path:
    """Write the overlays of a film as `made`, and beside it, with `record()` of its end, what came of it as JSON."""
    with atomic_replace(made) as part:
        frames, shares = _overlaid(predictor, film, part)
    content = {**record(), "input": film.name, "frames": frames, "class_shares": shares}
    content |= {"overlay": made.name, "overlay_sha256": file_sha256(made)}
    write_atomically(
        made.with_suffix(".json"), json.dumps(with_checksum(content), ensure_ascii=False, indent=1).encode()
    )
    return made


def _overlaid(predictor: Predictor, film: Film, part: Path) -> tuple[int, dict[str, float]]:
    """Encode the overlays of all frames; returns their number and the classes' mean shares. Raises UsageError."""
    import av

    classes, frames = predictor.model.classes, 0
    total = np.zeros(classes.num_classes)

    def read(frame: Any) -> InputImage:
        return predictor.prepare(_upright(frame), "")

    def write(_: Any, picture: InputImage, prediction: Prediction) -> tuple[UInt8, dict[str, float]]:
        return overlay(picture.pixels, prediction.indices, classes), class_shares(prediction.indices, classes)

    stages = pipeline.Stages(read, predictor.predict, write)
    with (
        av.open(str(part), "w", format="mp4") as out,
        predictor.streams(film.count or EVAL_BATCH * 2) as (streams, begin),
    ):
        encoder: Any = None
        results = pipeline.run(film.batches, stages, streams, predictor.cores, begin)
        for frame, outcome in progress(results, film.count, tr("predict"), tr("frames")):
            if isinstance(outcome, UsageError):
                raise outcome
            image, found = outcome
            frames, total = frames + 1, total + list(found.values())
            encoder = encoder or _encoder(out, film, image)
            shown = av.VideoFrame.from_ndarray(_even(image), format="rgb24")
            shown.pts, shown.time_base = frame.pts, frame.time_base
            out.mux(encoder.encode(shown))
        if encoder is None:
            raise UsageError(tr("{name}: not one frame in it", name=film.name))
        out.mux(encoder.encode(None))
    return frames, dict(zip(classes.names, (total / frames).round(9).tolist(), strict=True))


def _batches(clip: Any, stream: Any) -> Iterator[list[Any]]:
    """Frames as validation takes pictures, decoded as they are needed. Raises UsageError for too many pixels."""
    limit, batch = 2 * (Image.MAX_IMAGE_PIXELS or 0), []
    for frame in clip.decode(stream):
        if frame.width * frame.height > limit:
            raise UsageError(tr("{name}: at most {limit:,} pixels a frame", name=clip.name, limit=limit))
        batch.append(frame)
        if len(batch) == EVAL_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _upright(frame: Any) -> UInt8:
    """(H,W,3) uint8, turned as the file says: phones write what they see and how they were held."""
    image: UInt8 = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _even(image: UInt8) -> UInt8:
    """Sides that 4:2:0 colours can halve: the last row or column twice."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge")


def _encoder(out: Any, film: Film, image: UInt8) -> Any:
    """A stream of the output for overlays of this size, at the film's rate; H.264 where it is built in."""
    import av

    name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    height, width = _even(image).shape[:2]
    made = out.add_stream(name, rate=film.rate)
    made.width, made.height, made.pix_fmt = width, height, "yuv420p"
    made.time_base = made.codec_context.time_base = film.time_base
    return made
