"""Videos and cameras: number, order and time of the overlaid frames."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import UsageError
from dataset.overlay import overlay
from inference.origin import describe_origin
from inference.streams import camera, video
from segmentation.prediction import Prediction
from segmentation.predictor import InputImage, Predictor
from tests.support.images import write_video
from tests.support.models import CPU, lineage, make_model
from tests.support.project import Project

av = pytest.importorskip("av")


def test_each_frame_is_overlaid_at_its_time(tmp_path: Path) -> None:
    predictor, frames = Predictor(make_model(), CPU), write_video(tmp_path / "clip.mp4", 21)
    origin = describe_origin(predictor, lineage())
    made = video.predict_video(predictor, tmp_path / "clip.mp4", tmp_path / "out", origin)
    with av.open(str(made)) as clip:
        times = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    assert [round(time, 3) for time, _ in times] == [round(i / 10, 3) for i in range(21)]
    for number in (0, 10, 20):
        image = predictor.prepare(frames[number], "")
        wanted = overlay(frames[number], predictor.predict([image])[0].indices, predictor.model.classes)
        assert times[number][1].shape == (48, 66, 3)
        close = [np.abs(image[:, :65].astype(int) - wanted).mean() for _, image in times]
        assert int(np.argmin(close)) == number
    record = json.loads((tmp_path / "out/clip_overlay.json").read_text())
    assert record["frames"] == 21 and record["model_sha256"] == "a" * 64
    assert sum(record["class_shares"].values()) == pytest.approx(1, abs=1e-6)


def test_replaced_and_kept_videos_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, out = Predictor(make_model(), CPU), tmp_path / "out"
    clip, target = tmp_path / "clip.mp4", out / "clip_overlay.mp4"

    def predict() -> list[str]:
        assert video.predict_videos(predictor, [clip], lineage(), out) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "earlier" in line]

    write_video(clip, 3)
    assert predict() == []
    write_video(clip, 2)
    assert predict() == [f"earlier video replaced: {target}"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "compute_class_shares", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict()
    assert f"earlier video kept: {target}" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_unreadable_videos_are_usage_errors(tmp_path: Path) -> None:
    predictor = Predictor(make_model(), CPU)
    write_video(tmp_path / "cut.mp4", 3)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:400])
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "real.mp4", 2)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/real.mp4\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n")
    for name in ("cut", "text", "list", "hls"):
        with pytest.raises(UsageError, match=rf"{name}\.mp4: unreadable video"):
            video.predict_video(predictor, tmp_path / f"{name}.mp4", tmp_path / "out", {})
    assert not list((tmp_path / "out").iterdir()), "nothing half written"


def test_the_script_reports_an_unreadable_video_and_predicts_the_others(once_trained: Project, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 3)
    (tmp_path / "text.mp4").write_text("no video")
    names = [str(tmp_path / name) for name in ("text.mp4", "clip.mp4")]
    done = once_trained.run("infer.py", "--input", *names, "--output", str(tmp_path / "out"))
    assert done.returncode == 1 and "text.mp4: unreadable video" in done.stderr, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip_overlay.json", "clip_overlay.mp4"]
    record = json.loads((tmp_path / "out/clip_overlay.json").read_text())
    assert record["run_id"] == once_trained.runs()[0].info.run_id


def test_mixed_inputs_and_overwriting_outputs_are_rejected(tmp_path: Path) -> None:
    for name in ("a.mp4", "a_overlay.mp4", "b/a.mp4", "p.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    a, made, other, image = (tmp_path / name for name in ("a.mp4", "a_overlay.mp4", "b/a.mp4", "p.png"))
    assert video.select_videos([image], tmp_path) == [] and video.select_videos([a], tmp_path) == [a]
    for inputs, words in (
        ([a, made], "would overwrite"),
        ([a, other], "would overwrite"),
        ([a, image], r"p\.png: predict images and videos in separate calls"),
        ([tmp_path / "none.mp4"], "no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            video.select_videos(inputs, tmp_path)


def test_camera_frames_keep_their_arrival_times(tmp_path: Path) -> None:
    """FFmpeg's real-time test source replaces a camera."""
    predictor = SlowPredictor(make_model(), CPU)
    source = camera.Camera("camera0", "testsrc=size=65x48:rate=20,realtime", "lavfi")
    camera.predict_camera(predictor, source, 2.0, lineage(), tmp_path)
    record = json.loads((tmp_path / "camera0_overlay.json").read_text())
    assert record["dropped_frames"] > 1 and record["run_id"] == "f" * 32 and record["camera"] == "lavfi"
    with av.open(str(tmp_path / "camera0_overlay.mp4")) as clip:
        times = [frame.time for frame in clip.decode(video=0)]
    assert len(times) == record["frames"] > 0 and times[0] == 0 and times == sorted(set(times))
    # A frame is predicted in 0.3 s or more; without the dropped ones, they would lie 0.05 s apart.
    assert times[-1] >= 0.1 * (len(times) - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["camera0_overlay.json", "camera0_overlay.mp4"]


class SlowPredictor(Predictor):
    """Too slow for 20 frames/s."""

    def predict(self, images: Sequence[InputImage]) -> list[Prediction]:
        time.sleep(0.3)
        return super().predict(images)


class InterruptedPredictor(Predictor):
    """Ctrl-C is pressed during its third frame, wherever the clock stands."""

    frames = 0

    def predict(self, images: Sequence[InputImage]) -> list[Prediction]:
        self.frames += 1
        if self.frames == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().predict(images)


def test_ctrl_c_stops_a_camera_and_leaves_a_complete_video(tmp_path: Path) -> None:
    source = camera.Camera("camera0", "testsrc=size=64x48:rate=20,realtime", "lavfi")
    assert camera.predict_camera(InterruptedPredictor(make_model(), CPU), source, None, lineage(), tmp_path) == 0
    with av.open(str(tmp_path / "camera0_overlay.mp4")) as clip:
        assert len(list(clip.decode(video=0))) == json.loads((tmp_path / "camera0_overlay.json").read_text())["frames"]


def test_a_camera_that_ends_or_fails_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(make_model(), CPU)
    source = camera.Camera("c", "testsrc=size=64x48:rate=20:duration=0.3", "lavfi")
    assert camera.predict_camera(predictor, source, None, lineage(), tmp_path) == 0
    for place, kind in (("/dev/video77", "v4l2"), ("0", "no_such_kind"), ("testsrc=nonsense=1", "lavfi")):
        with pytest.raises(UsageError, match=r"cannot be opened \("):
            camera.predict_camera(predictor, camera.Camera("c", place, kind), None, lineage(), tmp_path)
    monkeypatch.setattr(camera, "FRAME_TIMEOUT_S", 0.3)
    with pytest.raises(UsageError, match=r"silent: no frame for 0\.3 s"):
        origin = describe_origin(predictor, lineage())
        silent = camera.Camera("silent", "silent", "lavfi")
        camera.record_camera(predictor, SilentContainer(), silent, None, origin, tmp_path)


class SilentContainer:
    """An opened camera that never sends a frame."""

    name = "silent"
    streams = SimpleNamespace(video=[SimpleNamespace(average_rate=None)])

    def decode(self, video: int) -> Iterator[None]:
        time.sleep(5)
        return iter(())


def test_find_camera_by_number_path_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, spec, wanted in (
        ("linux", "1", camera.Camera("camera1", "/dev/video1", "v4l2")),
        ("linux", "/dev/v4l/by-id/usb.cam", camera.Camera("usb_cam", "/dev/v4l/by-id/usb.cam", "v4l2")),
        ("darwin", "0", camera.Camera("camera0", "0", "avfoundation")),
        ("win32", "Front Cam", camera.Camera("Front_Cam", "video=Front Cam", "dshow")),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert camera.find_camera(spec) == wanted


def test_a_missing_camera_is_a_usage_error(once_trained: Project, tmp_path: Path) -> None:
    done = once_trained.run("infer.py", "--camera", str(tmp_path / "video7"), "--output", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "video7: cannot be opened" in done.stderr, (
        done.stderr
    )
