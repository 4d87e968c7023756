"""Video files: as many frames, as long, at the right place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.project import Project
from tests.test_inference import CPU, lineage, make_model
from train import inference, video
from train.figures import overlay
from train.predictor import Predictor
from utils.console import UsageError

av = pytest.importorskip("av")


def film(path: Path, count: int, height: int = 48, width: int = 65) -> list[np.ndarray]:
    """Noise that changes slowly, 10 frames a second, without loss."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))
    return frames


def test_each_frame_is_overlaid_in_its_place(tmp_path: Path) -> None:
    predictor, frames = Predictor(make_model(), CPU), film(tmp_path / "clip.mp4", 21)
    origin = inference.origin(predictor, lineage())
    made = video.predict_video(predictor, tmp_path / "clip.mp4", tmp_path / "out", origin)
    with av.open(str(made)) as clip:
        times = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    assert [round(time, 3) for time, _ in times] == [round(i / 10, 3) for i in range(21)]
    for number in (0, 10, 20):
        picture = predictor.picture(frames[number], "")
        wanted = overlay(frames[number], predictor.predict([picture])[0].indices, predictor.model.classes)
        assert times[number][1].shape == (48, 66, 3)
        close = [np.abs(image[:, :65].astype(int) - wanted).mean() for _, image in times]
        assert int(np.argmin(close)) == number
    record = json.loads((tmp_path / "out/clip_overlay.json").read_text())
    assert record["frames"] == 21 and record["model_sha256"] == "a" * 64
    assert sum(record["class_shares"].values()) == pytest.approx(1, abs=1e-6)


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    predictor = Predictor(make_model(), CPU)
    film(tmp_path / "cut.mp4", 3)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:400])
    (tmp_path / "text.mp4").write_text("no video")
    film(tmp_path / "real.mp4", 2)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/real.mp4\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n")
    for name in ("cut", "text", "list", "hls"):
        with pytest.raises(UsageError, match=rf"{name}\.mp4: unreadable video"):
            video.predict_video(predictor, tmp_path / f"{name}.mp4", tmp_path / "out", {})
    assert not list((tmp_path / "out").iterdir()), "nothing half written"


def test_the_script_names_what_it_cannot_read_and_does_the_rest(once_trained: Project, tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", 3)
    (tmp_path / "text.mp4").write_text("no video")
    names = [str(tmp_path / name) for name in ("text.mp4", "clip.mp4")]
    done = once_trained.run("infer.py", "--input", *names, "--output", str(tmp_path / "out"))
    assert done.returncode == 1 and "text.mp4: unreadable video" in done.stderr, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip_overlay.json", "clip_overlay.mp4"]
    record = json.loads((tmp_path / "out/clip_overlay.json").read_text())
    assert record["run_id"] == once_trained.runs()[0].info.run_id


def test_nothing_is_overwritten_and_nothing_is_mixed(tmp_path: Path) -> None:
    for name in ("a.mp4", "a_overlay.mp4", "b/a.mp4", "p.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    a, made, other, picture = (tmp_path / name for name in ("a.mp4", "a_overlay.mp4", "b/a.mp4", "p.png"))
    assert video.chosen([picture], tmp_path) == [] and video.chosen([a], tmp_path) == [a]
    for inputs, words in (
        ([a, made], "would overwrite"),
        ([a, other], "would overwrite"),
        ([a, picture], r"p\.png: give pictures and videos in two calls"),
        ([tmp_path / "none.mp4"], "no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            video.chosen(inputs, tmp_path)
