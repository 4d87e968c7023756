"""Predict every frame of a video; the overlays become a video of the same length and timing. Needs PyAV."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import AppError, ExitCode, UsageError
from core.files import atomic_replace, require_content, write_atomically
from core.hashing import file_sha256
from core.i18n import tr, trn
from core.reporting import notify, progress, result
from core.safety.checksummed_json import with_checksum
from dataset.classes import UInt8
from dataset.overlay import overlay
from inference import pipeline
from inference.earlier import ownership
from inference.inputs import VIDEO_SUFFIXES
from inference.origin import describe_origin
from inference.outputs import compute_class_shares, lock_output_dir, origin_comment
from inference.tally import reliability_record, report_drift, summarize_drift
from segmentation.prediction import Prediction
from segmentation.predictor import InputImage, Predictor
from segmentation.preprocess import EVAL_BATCH
from utils.lineage import Origin

# Formats are limited whatever the name of a file: FFmpeg also opens formats that list other files or URLs.
SAFE_FORMATS = {"format_whitelist": "mov,matroska,avi", "protocol_whitelist": "file"}


def require_pyav(what: str) -> None:
    """Raise UsageError if the optional package is missing; called before predicting."""
    if importlib.util.find_spec("av") is None:
        raise UsageError(tr("{what} needs PyAV: pip install av", what=what))


def require_rgb_model(predictor: Predictor) -> None:
    """Raise UsageError if the model is for images of other bands than red, green and blue."""
    channels = predictor.model.reading.channels
    if channels != 3:
        raise UsageError(
            trn(
                "the model expects images of {count} band: a video has red, green, blue",
                "the model expects images of {count} bands: a video has red, green, blue",
                channels,
            )
        )


def select_videos(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Return the inputs if they are videos; an empty list if none of them is.

    Raises UsageError for a mixture, a missing file, or outputs that would overwrite an input or each other.
    """
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in inputs):
        return []
    require_pyav(tr("a video"))
    targets = [(output / _overlay_name(path)).resolve() for path in inputs]
    for path, target in zip(inputs, targets, strict=True):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError(tr("{path}: predict images and videos in separate calls", path=path))
        if not path.is_file():
            raise UsageError(tr("{path}: no such file", path=path))
        require_content(path)
        if path.resolve() in targets or targets.count(target) > 1:
            raise UsageError(
                tr(
                    "{path}: {target} would overwrite an input or another output: use separate calls or another --output",
                    path=path,
                    target=target,
                )
            )
    return list(inputs)


def _overlay_name(source: Path) -> str:
    return f"{source.stem}_overlay.mp4"


@dataclass(frozen=True)
class FrameSource:
    """Frames of a file or a camera, in order."""

    name: str  # for messages
    batches: Iterable[Sequence[Any]]  # of av.VideoFrame, with times in units of `time_base`
    rate: Fraction
    time_base: Fraction
    count: int | None = None  # known for most files


def predict_videos(predictor: Predictor, videos: Sequence[Path], lineage: Origin, output: Path) -> int:
    """Predict videos into a directory; return the exit code. Raises AppError at the end for those that failed."""
    require_rgb_model(predictor)
    failed = []
    with lock_output_dir(output):
        for path in videos:
            try:
                video = predict_video(predictor, path, output, describe_origin(predictor, lineage))
                result(tr("predicted {name}: {video}", name=path, video=video))
            except UsageError as error:
                failed.append(str(error))
    if failed:
        raise AppError("\n".join(failed))
    return ExitCode.DONE


def predict_video(predictor: Predictor, source: Path, folder: Path, origin: Mapping[str, Any]) -> Path:
    """Write <name>_overlay.mp4, and `origin` with the class shares as <name>_overlay.json; return the video.

    Audio is dropped. A kill leaves either the old or the new files. Raises UsageError for a file that is not a
    complete video.
    """
    import av

    video = folder / _overlay_name(source)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(source), options=SAFE_FORMATS) as container:
            if not container.streams.video:
                raise UsageError(tr("{name}: contains no video stream", name=source))
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate, base = stream.average_rate or Fraction(25), stream.time_base or Fraction(1, 90_000)
            frames = FrameSource(str(source), _batches(container, stream), rate, base, stream.frames or None)
            return write_overlay_video(predictor, frames, video, origin, lambda: {"input_sha256": file_sha256(source)})
    except av.error.FFmpegError as error:
        raise UsageError(tr("{source}: unreadable video ({error})", source=source, error=error)) from None


def write_overlay_video(
    predictor: Predictor,
    source: FrameSource,
    video: Path,
    origin: Mapping[str, Any],
    record: Callable[[], dict[str, Any]],
) -> Path:
    """Predict all frames into `video`, and write its record as JSON beside it; `record` is completed at the end.

    An earlier video stays until the new one is complete; which of the two is there then is reported. Raises UsageError if
    one of the two exists and was not written by infer.py.
    """
    record_file = video.with_suffix(".json")
    names = (video.name, record_file.name)
    ownership.reject_replacing(video.parent, names, ownership.video_files(record_file))
    replaces = video.exists()
    try:
        with atomic_replace(video) as part:
            frames, shares, compared = _encode_overlays(predictor, source, part, origin_comment(origin))
            # A kill leaves no record of another video: the comment in the file shows whose it is.
            record_file.unlink(missing_ok=True)
    except BaseException:
        if replaces:
            notify(tr("earlier video kept: {path}", path=video))
        raise
    if replaces:
        notify(tr("earlier video replaced: {path}", path=video))
    content = {**origin, **record(), "input": source.name, "frames": frames, "class_shares": shares}
    content |= {"overlay": video.name, "overlay_sha256": file_sha256(video)}
    if (drift := summarize_drift(compared)) is not None:
        content["drift"] = drift
        report_drift(drift)
    write_atomically(record_file, json.dumps(with_checksum(content), ensure_ascii=False, indent=1).encode())
    return video


def _encode_overlays(
    predictor: Predictor, source: FrameSource, part: Path, comment: str
) -> tuple[int, dict[str, float], list[dict[str, Any]]]:
    """Encode the overlays of all frames; return their number, the mean class shares, and what is recorded of each frame.

    Raises UsageError.
    """
    import av

    classes, frames = predictor.model.classes, 0
    total, compared = np.zeros(classes.num_classes), []

    def read(frame: Any) -> InputImage:
        return predictor.prepare(_read_upright(frame), "")

    def write(_: Any, image: InputImage, prediction: Prediction) -> tuple[UInt8, dict[str, float], dict[str, Any]]:
        shares = compute_class_shares(prediction.indices, classes)
        return overlay(image.pixels, prediction.indices, classes), shares, reliability_record(prediction)

    stages = pipeline.Stages(read, predictor.predict, write)
    with (
        av.open(str(part), "w", format="mp4") as out,
        predictor.streams(source.count or EVAL_BATCH * 2) as (streams, begin),
    ):
        out.metadata["comment"] = comment
        encoder: Any = None
        results = pipeline.run(source.batches, stages, streams, predictor.cores, begin)
        for frame, outcome in progress(results, source.count, tr("predict"), tr("frames")):
            if isinstance(outcome, UsageError):
                raise outcome
            image, shares, record = outcome
            frames += 1
            compared.append(record)
            total += list(shares.values())
            encoder = encoder or _add_encoder(out, source, image)
            encoded = av.VideoFrame.from_ndarray(_pad_to_even(image), format="rgb24")
            encoded.pts, encoded.time_base = frame.pts, frame.time_base
            out.mux(encoder.encode(encoded))
        if encoder is None:
            raise UsageError(tr("{name}: contains no frames", name=source.name))
        out.mux(encoder.encode(None))
    return frames, dict(zip(classes.names, (total / frames).round(9).tolist(), strict=True)), compared


def _batches(container: Any, stream: Any) -> Iterator[list[Any]]:
    """Yield frames in batches of the size that validation uses, decoded on demand.

    Raises UsageError for a frame with too many pixels.
    """
    limit, batch = 2 * (Image.MAX_IMAGE_PIXELS or 0), []
    for frame in container.decode(stream):
        if frame.width * frame.height > limit:
            raise UsageError(
                tr("{name}: expected at most {limit:,} pixels per frame", name=container.name, limit=limit)
            )
        batch.append(frame)
        if len(batch) == EVAL_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_upright(frame: Any) -> UInt8:
    """Return a frame as (H,W,3) uint8, rotated as the file's metadata say: phones do not rotate the pixels."""
    image: UInt8 = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _pad_to_even(image: UInt8) -> UInt8:
    """Repeat the last row or column of odd sides: 4:2:0 chroma subsampling needs even ones."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge")


def _add_encoder(out: Any, source: FrameSource, image: UInt8) -> Any:
    """Add a video stream for overlays of this size to the output: H.264 if it is built in, else MPEG-4."""
    import av

    name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    height, width = _pad_to_even(image).shape[:2]
    stream = out.add_stream(name, rate=source.rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = stream.codec_context.time_base = source.time_base
    return stream
