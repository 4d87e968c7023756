"""A camera: live frames through a model until Ctrl-C; what the network cannot keep up with is dropped. Needs PyAV."""

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

from core.errors import UsageError
from core.i18n import tr
from core.process import handle_first_signal
from core.reporting import notify
from inference.batch_job import origin
from inference.outputs import lock_output_dir
from inference.video import Film, write_film
from segmentation.predictor import Predictor
from utils.lineage import Lineage

CLOCK = 90_000  # units of a second in which frames are stamped as they arrive, as in most videos
PATIENCE_S = 10.0  # to wait for a frame
KINDS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's names for cameras


@dataclass(frozen=True)
class Camera:
    """`name` is that of its outputs; `place` and `kind` are FFmpeg's input and format."""

    name: str
    place: str
    kind: str


def camera(which: str) -> Camera:
    """The camera of that number or path (macOS, Windows: of that number or name). Raises UsageError for none."""
    kind, place, name = KINDS.get(sys.platform, "v4l2"), which, f"camera{which}"
    if not which.isdigit():
        name = "".join(c if c.isalnum() else "_" for c in Path(which).name) or "camera"
        place = f"video={which}" if kind == "dshow" else which
    elif kind == "v4l2":
        place = f"/dev/video{which}"
    elif kind == "dshow":
        place = f"video={_windows_camera(int(which))}"
    return Camera(name, place, kind)


def _windows_camera(number: int) -> str:
    import av

    found = [device for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(found):
        raise UsageError(tr("camera {number}: not there (there are {count})", number=number, count=len(found)))
    return str(found[number].name)


class Live:
    """The frames of an open camera, each stamped as it arrives; of those that nobody took in time only the last is kept."""

    def __init__(self, clip: Any, seconds: float | None) -> None:
        self.clip, self.seconds = clip, seconds
        self.ended = False
        self.dropped = 0
        self._newest: queue.Queue[Any] = queue.Queue(1)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        start, last = time.monotonic(), -1
        try:
            for frame in self.clip.decode(video=0):
                last = max(last + 1, round((time.monotonic() - start) * CLOCK))
                frame.pts, frame.time_base = last, Fraction(1, CLOCK)
                with contextlib.suppress(queue.Empty):
                    self._newest.get_nowait()
                    self.dropped += 1
                self._newest.put(frame)
                if self.ended:
                    return
        except Exception as error:  # of FFmpeg: whoever takes the frames raises it
            self._error = error

    def batches(self) -> Iterator[list[Any]]:
        """Frames one by one, each the newest, until the time is over, it is ended, or the camera ends."""
        self._thread.start()
        begun, first = 0.0, 0
        heard = time.monotonic()
        while not self.ended and not (begun and self.seconds and time.monotonic() - begun >= self.seconds):
            there = self._thread.is_alive()  # asked first: what it has put before its end is then seen
            try:
                frame = self._newest.get(timeout=0.05)
            except queue.Empty:
                if not there:
                    break
                if time.monotonic() - heard > PATIENCE_S:
                    raise UsageError(
                        tr("{name}: no frame for {patience_s:g} s", name=self.clip.name, patience_s=PATIENCE_S)
                    ) from None
                continue
            heard = time.monotonic()
            if not begun:
                begun, first = heard, frame.pts
            frame.pts -= first
            yield [frame]
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Take no more frames; what is there is written."""
        self.ended = True

    def close(self) -> None:
        """Let the thread end, and close the camera; not under a thread that a driver holds, which would crash."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        if not self._thread.is_alive():
            self.clip.close()


def predict_camera(predictor: Predictor, source: Camera, seconds: float | None, lineage: Lineage, output: Path) -> int:
    """Predict live frames into <name>_overlay.mp4, with its .json, until Ctrl-C or for some seconds.

    Raises UsageError where the camera cannot be had, or gives nothing.
    """
    import av

    try:
        clip = av.open(source.place, format=source.kind, timeout=PATIENCE_S)
        with lock_output_dir(output):
            made = film_camera(predictor, clip, source, seconds, origin(predictor, lineage), output)
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: FFmpeg was built without this kind
        raise UsageError(tr("camera {place}: cannot be had ({error})", place=source.place, error=error)) from None
    notify(tr("predicted {place}: {made}", place=source.place, made=made))
    return 0


def film_camera(
    predictor: Predictor, clip: Any, source: Camera, seconds: float | None, record: dict[str, Any], folder: Path
) -> Path:
    """What `predict_camera` does with an open camera; returns the video."""
    if not clip.streams.video:
        raise UsageError(tr("{place}: no video in it", place=source.place))
    live, began = Live(clip, seconds), datetime.now(UTC).isoformat(timespec="seconds")
    rate = clip.streams.video[0].average_rate or Fraction(25)
    film = Film(source.place, live.batches(), rate, Fraction(1, CLOCK))
    notify(tr("predicting {place} (Ctrl-C ends)", place=source.place))

    def facts() -> dict[str, Any]:
        return {**record, "camera": source.kind, "began": began, "dropped_frames": live.dropped}

    try:
        with handle_first_signal(live.end):
            return write_film(predictor, film, folder / f"{source.name}_overlay.mp4", facts)
    finally:
        live.close()
