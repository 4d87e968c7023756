"""infer.py replaces and removes only files that it wrote, and does not predict its own outputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UsageError
from inference import batch_job, inputs
from inference.earlier import ownership
from inference.formats import JOURNAL
from inference.origin import describe_origin
from inference.streams import video
from segmentation.predictor import Method, Predictor
from tests.support.images import draw, write_video
from tests.support.models import CPU, lineage, make_model
from tests.support.project import Project

FOREIGN = "that infer.py did not write"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(make_model(), CPU)


def predict(predictor: Predictor, source: Path, output: Path, resume: bool = False) -> batch_job.Outcome:
    extras = ("areas", "probabilities") if predictor.method.probabilities else ()
    return batch_job.predict(predictor, inputs.collect_items([source]), output, lineage(), None, resume, extras)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["000.png", "000_overlay.jpg", "index.html"])
def test_file_of_the_user_is_never_replaced(predictor: Predictor, tmp_path: Path, name: str) -> None:
    draw(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"made by hand")
    with pytest.raises(UsageError, match=FOREIGN):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    assert content(tmp_path / "out") == {name: b"made by hand"}


@pytest.mark.parametrize("resume", [False, True])
def test_prediction_that_was_corrected_by_hand_is_never_replaced(
    predictor: Predictor, tmp_path: Path, resume: bool
) -> None:
    draw(tmp_path / "in", 2)
    out = tmp_path / "out"
    predict(predictor, tmp_path / "in", out)
    with Image.open(out / "001.png") as mask:
        corrected = mask.copy()
    corrected.putpixel((0, 0), 9)
    corrected.save(out / "001.png")
    kept = (out / "001.png").read_bytes()
    with pytest.raises(UsageError, match=r"changed since \(001.png\)"):
        predict(predictor, tmp_path / "in", out, resume)
    assert (out / "001.png").read_bytes() == kept
    (tmp_path / "in/001.png").unlink()
    predict(predictor, tmp_path / "in", out)  # other images: the corrected file is not touched
    assert (out / "001.png").read_bytes() == kept and not (out / "001_overlay.jpg").exists()


def test_directory_of_labels_is_refused_as_output(predictor: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "in", 1)
    (tmp_path / "labels").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "labels/other.png")
    with pytest.raises(UsageError, match=r"labels: contains 1 image that infer.py did not write \(other.png\)"):
        predict(predictor, tmp_path / "in", tmp_path / "labels")
    assert sorted(content(tmp_path / "labels")) == ["other.png"]


def test_second_call_with_the_output_inside_the_input_does_the_same(predictor: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "in", 2)
    outcomes = [predict(predictor, tmp_path / "in", tmp_path / "in/out") for _ in range(2)]
    assert [outcome.written for outcome in outcomes] == [2, 2]
    predict(predictor, tmp_path / "in", tmp_path / "elsewhere")
    listing = json.loads((tmp_path / "elsewhere/predictions.json").read_text())
    assert [record["mask"] for record in listing["images"]] == ["000.png", "001.png"]


def test_outputs_are_recognized_without_a_listing(tmp_path: Path) -> None:
    draw(tmp_path / "in", 2)
    everything = Predictor(make_model(), CPU, Method(probabilities=True))
    predict(everything, tmp_path / "in", tmp_path / "out")
    for name in ("000.png", "000_overlay.jpg", "000.npz", "index.html"):
        assert ownership.is_prediction(tmp_path / "out" / name), name
    assert not ownership.is_prediction(tmp_path / "in/000.png")
    (tmp_path / "out/predictions.json").unlink()
    (tmp_path / "out/areas.csv").unlink()
    assert predict(everything, tmp_path / "in", tmp_path / "out").written == 2
    with pytest.raises(UsageError, match="wrote, not an image to predict"):
        inputs.collect_items([tmp_path / "out/000.png"])


def test_job_killed_between_its_files_continues(predictor: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "in", 2)
    out = tmp_path / "out"
    predict(predictor, tmp_path / "in", out)
    whole = content(out)
    settings = batch_job.BatchJob(predictor, [], out, lineage(), None).settings
    (out / "predictions.json").unlink()
    (out / JOURNAL).write_text(json.dumps(settings) + "\n")  # both images were written, neither is recorded
    assert predict(predictor, tmp_path / "in", out, resume=True).written == 2
    assert {name: whole[name] for name in whole if name.startswith("00")} == {
        name: data for name, data in content(out).items() if name.startswith("00")
    }


def test_listing_cannot_make_infer_remove_other_files(predictor: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "in", 1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.png").write_bytes(b"precious")
    listing = {"images": [{"mask": "thesis.png", "mask_sha256": "0" * 64, "overlay": "thesis.png"}]}
    (out / "predictions.json").write_text(json.dumps(listing))
    predict(predictor, tmp_path / "in", out)
    assert (out / "thesis.png").read_bytes() == b"precious"


def test_links_to_regular_files_of_the_directory_are_predicted(predictor: Predictor, tmp_path: Path) -> None:
    draw(tmp_path / "in/.blobs", 2)
    for number in range(2):
        os.rename(tmp_path / f"in/.blobs/00{number}.png", tmp_path / f"in/.blobs/{number}")  # stored by its hash
        (tmp_path / f"in/{number}.png").symlink_to(tmp_path / f"in/.blobs/{number}")
    outcome = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert (outcome.written, outcome.failed) == (2, [])


def link_as(store: str, folder: Path) -> Path:
    """Turn the images of a folder into links as a cache or a version control system makes them; return what to predict."""
    top = folder.parent
    for number, path in enumerate(sorted(folder.iterdir())):
        target, link = {
            "beside": (top / f"real{number}.png", folder / path.name),
            "hugging face": (top / f"hub/blobs/{number:064x}", top / "hub/snapshots/r1/train" / path.name),
            "git-annex": (
                top / f"repo/.git/annex/objects/k{number}/SHA256E-{number}.png",
                top / "repo/photos" / path.name,
            ),
            "dvc": (top / f"cache/files/md5/0{number}/{number:030x}", top / "work/images" / path.name),
        }[store]
        for place in (target, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        target.chmod(0o444)
        link.symlink_to(target if store == "dvc" else os.path.relpath(target, link.parent))
    return {"beside": folder, "hugging face": top / "hub/snapshots/r1", "git-annex": top / "repo/photos"}.get(
        store, top / "work/images"
    )


@pytest.mark.parametrize("store", ["beside", "hugging face", "git-annex", "dvc"])
def test_links_to_regular_files_elsewhere_are_predicted(predictor: Predictor, tmp_path: Path, store: str) -> None:
    draw(tmp_path / "in", 2)
    folder = link_as(store, tmp_path / "in")
    before = content(tmp_path)
    outcome = predict(predictor, folder, tmp_path / "out")
    assert (outcome.written, outcome.failed) == (2, [])
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("out/")} == before


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animation_is_reported_and_the_other_images_are_predicted(
    predictor: Predictor, tmp_path: Path, suffix: str
) -> None:
    draw(tmp_path / "in", 1)
    frames = [Image.new("RGB", (40, 30), (9, 99, level)) for level in (0, 200)]
    frames[0].save(tmp_path / f"in/film{suffix}", save_all=True, append_images=frames[1:])
    outcome = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert outcome.written == 1 and not (tmp_path / "out/film.png").exists()
    (failed,) = outcome.failed
    assert f"film{suffix}: expected an image of one frame, found an animation (save each frame as an image)" in failed


def test_video_of_the_user_is_never_replaced(predictor: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_video(tmp_path / "clip.mp4", 3)
    out = tmp_path / "out"
    origin = describe_origin(predictor, lineage())
    made = video.predict_video(predictor, tmp_path / "clip.mp4", out, origin)
    video.predict_video(predictor, tmp_path / "clip.mp4", out, origin)
    made.with_suffix(".json").unlink()  # as a kill between the two files leaves it
    video.predict_video(predictor, tmp_path / "clip.mp4", out, origin)
    shutil.copyfile(tmp_path / "clip.mp4", made)
    with pytest.raises(UsageError, match=FOREIGN):
        video.predict_video(predictor, tmp_path / "clip.mp4", out, origin)
    assert made.read_bytes() == (tmp_path / "clip.mp4").read_bytes()


def test_default_output_is_in_the_project_wherever_the_data_is(once_trained: Project, tmp_path: Path) -> None:
    project, data = once_trained, tmp_path / "dataset"
    shutil.copytree(project.folder / "data", data, ignore=shutil.ignore_patterns("predictions"))
    before = content(data)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "photo.png")
    done = project.run("infer.py", "--input", str(tmp_path / "photo.png"), env={"DATA_DIR": str(data)})
    assert done.returncode == 0, done.stderr
    assert content(data) == before and (project.folder / "data/predictions/photo.png").is_file()
    inside = project.run(
        *("infer.py", "--input", str(tmp_path / "photo.png"), "--output", str(data / "masks")),
        env={"DATA_DIR": str(data)},
    )
    assert inside.returncode == 2 and "inside the data directory" in inside.stderr
    assert content(data) == before


def test_label_beside_the_input_is_kept(once_trained: Project, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (9, 99, 9)).save(tmp_path / "a.jpg")
    Image.new("L", (40, 30), 1).save(tmp_path / "a.png")
    before = content(tmp_path)
    done = once_trained.run("infer.py", "--input", str(tmp_path / "a.jpg"), "--output", str(tmp_path))
    assert done.returncode == 2 and FOREIGN in done.stderr and "a.png" in done.stderr
    assert content(tmp_path) == before
