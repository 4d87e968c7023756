"""Predict the frames of a camera until Ctrl-C; frames that the network is too slow for are dropped. Needs PyAV."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from core.errors import ExitCode, UsageError
from core.i18n import tr, trn
from core.process import handle_first_signal
from core.reporting import notify, result
from inference.origin import describe_origin
from inference.outputs import lock_output_dir
from inference.streams.video import FrameSource, require_rgb_model, write_overlay_video
from segmentation.predictor import Predictor
from utils.lineage import Origin

CLOCK_HZ = 90_000  # of the timestamps that frames get on arrival, as in most videos
FRAME_TIMEOUT_S = 10.0
DEVICE_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's input formats for cameras


@dataclass(frozen=True)
class Camera:
    """A camera as FFmpeg opens it; outputs are named after `name`."""

    name: str
    device: str  # FFmpeg's input
    format: str  # FFmpeg's input format


def find_camera(spec: str) -> Camera:
    """Return the camera with this number or path (macOS, Windows: number or name).

    Raises UsageError for a number that Windows does not have; other cameras are checked when they are opened.
    """
    device_format, device, name = DEVICE_FORMATS.get(sys.platform, "v4l2"), spec, f"camera{spec}"
    if not spec.isdigit():
        name = "".join(c if c.isalnum() else "_" for c in Path(spec).name) or "camera"
        device = f"video={spec}" if device_format == "dshow" else spec
    elif device_format == "v4l2":
        device = f"/dev/video{spec}"
    elif device_format == "dshow":
        device = f"video={_windows_camera(int(spec))}"
    return Camera(name, device, device_format)


def _windows_camera(number: int) -> str:
    """Return the name of a DirectShow camera."""
    import av

    found = [device for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(found):
        raise UsageError(
            trn(
                "camera {number}: not found ({count} camera available)",
                "camera {number}: not found ({count} cameras available)",
                len(found),
                number=number,
            )
        )
    return str(found[number].name)


class LiveFrames:
    """The newest frames of an open camera, with the time of their arrival; `dropped` counts those not taken in time."""

    def __init__(self, container: Any, seconds: float | None) -> None:
        self.container, self.seconds = container, seconds
        self.stopped = False
        self.dropped = 0
        self._newest: queue.Queue[Any] = queue.Queue(1)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        start, last = time.monotonic(), -1
        try:
            for frame in self.container.decode(video=0):
                last = max(last + 1, round((time.monotonic() - start) * CLOCK_HZ))
                frame.pts, frame.time_base = last, Fraction(1, CLOCK_HZ)
                with contextlib.suppress(queue.Empty):
                    self._newest.get_nowait()
                    self.dropped += 1
                self._newest.put(frame)
                if self.stopped:
                    return
        except Exception as error:  # raised by `batches`, in the thread that takes the frames
            self._error = error

    def batches(self) -> Iterator[list[Any]]:
        """Yield the newest frame, one at a time, until `seconds` are over, `stop` is called, or the camera ends.

        Raises UsageError if no frame arrives in time, and errors of FFmpeg.
        """
        self._thread.start()
        first_at, first_pts = 0.0, 0  # of the first frame
        last_at = time.monotonic()
        while not self.stopped and not (first_at and self.seconds and time.monotonic() - first_at >= self.seconds):
            reading = self._thread.is_alive()  # asked first, so that its last frame is not missed
            try:
                frame = self._newest.get(timeout=0.05)
            except queue.Empty:
                if not reading:
                    break
                if time.monotonic() - last_at > FRAME_TIMEOUT_S:
                    raise UsageError(
                        tr("{name}: no frame for {seconds:g} s", name=self.container.name, seconds=FRAME_TIMEOUT_S)
                    ) from None
                continue
            last_at = time.monotonic()
            if not first_at:
                first_at, first_pts = last_at, frame.pts
            frame.pts -= first_pts
            yield [frame]
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Take no more frames; those taken are still written."""
        self.stopped = True

    def close(self) -> None:
        """Wait for the reading thread and close the camera.

        The camera stays open if a driver blocks the thread: closing it would crash the process.
        """
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(FRAME_TIMEOUT_S)
        if not self._thread.is_alive():
            self.container.close()


def predict_camera(predictor: Predictor, source: Camera, seconds: float | None, lineage: Origin, output: Path) -> int:
    """Predict a camera into <name>_overlay.mp4 and .json until Ctrl-C or for some seconds; return the exit code.

    Raises UsageError if the camera cannot be opened or sends no frames.
    """
    import av

    require_rgb_model(predictor)
    try:
        container = av.open(source.device, format=source.format, timeout=FRAME_TIMEOUT_S)
        with lock_output_dir(output):
            video = record_camera(predictor, container, source, seconds, describe_origin(predictor, lineage), output)
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: FFmpeg was built without this format
        raise UsageError(tr("camera {device}: cannot be opened ({error})", device=source.device, error=error)) from None
    result(tr("predicted {name}: {video}", name=source.device, video=video))
    return ExitCode.DONE


def record_camera(
    predictor: Predictor, container: Any, source: Camera, seconds: float | None, origin: dict[str, Any], folder: Path
) -> Path:
    """Predict an open camera and return the path of the video."""
    if not container.streams.video:
        raise UsageError(tr("{name}: contains no video stream", name=source.device))
    live, began = LiveFrames(container, seconds), datetime.now(UTC).isoformat(timespec="seconds")
    rate = container.streams.video[0].average_rate or Fraction(25)
    frames = FrameSource(source.device, live.batches(), rate, Fraction(1, CLOCK_HZ))
    notify(tr("predicting {name} (Ctrl-C to stop)", name=source.device))

    def final_record() -> dict[str, Any]:
        return {"camera": source.format, "began": began, "dropped_frames": live.dropped}

    try:
        with handle_first_signal(live.stop):
            return write_overlay_video(predictor, frames, folder / f"{source.name}_overlay.mp4", origin, final_record)
    finally:
        live.close()
