"""Batch prediction: unreadable images, interruptions, bit-identical results."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import UsageError
from dataset.samples import Item
from inference import batch_job, inputs, outputs, pipeline
from inference.formats import JOURNAL
from inference.outputs import EXTRAS
from segmentation.predictor import Method, Predictor
from tests.support.images import draw
from tests.support.models import CPU, lineage, make_model
from tests.support.project import SIGKILL, SIGTERM, Project, finish


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of an output directory without the time of the call, which the page contains too."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    listing = json.loads(found.pop("predictions.json"))
    for key in ("created", "content_sha256"):
        listing.pop(key)
    found.pop("index.html")
    return found | {"predictions.json": json.dumps(listing).encode()}


def test_repeated_and_resumed_jobs_are_bit_identical(tmp_path: Path) -> None:
    predictor, items = Predictor(make_model(), CPU), draw(tmp_path / "in", 21)
    for name in ("a", "b"):
        batch_job.predict(predictor, items, tmp_path / name, lineage(), None)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    job = batch_job.BatchJob(predictor, items, tmp_path / "b", lineage(), None)
    (tmp_path / "b/predictions.json").unlink()
    lines = [json.dumps(job.settings)] + [json.dumps(r) for r in _records(tmp_path / "a")[:13]]
    (tmp_path / "b" / JOURNAL).write_text("\n".join(lines) + '\n{"input": "cut in the mid')
    (tmp_path / "b/003.png").write_bytes(b"")  # as after a power failure; in the first batch, which is then done again
    for item in items[13:]:
        (tmp_path / "b" / f"{item.name}.png").unlink()
    outcome = batch_job.predict(predictor, items, tmp_path / "b", lineage(), None, resume=True)
    assert (outcome.written, outcome.reused) == (21, 12)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def _records(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "predictions.json").read_text())["images"])


def test_resume_predicts_only_new_images_and_rejects_other_models(tmp_path: Path) -> None:
    predictor, items = Predictor(make_model(), CPU), draw(tmp_path / "in", 12)
    batch_job.predict(predictor, items[:8], tmp_path / "out", lineage(), None)
    before = (tmp_path / "out/000.png").stat().st_mtime_ns
    outcome = batch_job.predict(predictor, items, tmp_path / "out", lineage(), None, resume=True)
    assert (outcome.written, outcome.reused) == (12, 8)
    assert (tmp_path / "out/000.png").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"contains another job \(model_sha256: a+, now b+\)"):
        batch_job.predict(predictor, items, tmp_path / "out", lineage("b" * 64), None, resume=True)
    Image.new("RGB", (9, 9)).save(items[2].image)  # a changed input is predicted again
    outcome = batch_job.predict(predictor, items, tmp_path / "out", lineage(), None, resume=True)
    assert outcome.reused == 11
    with Image.open(tmp_path / "out/002.png") as mask:
        assert mask.size == (9, 9)


def test_extras_and_gallery_match_the_masks(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    predictor, items = Predictor(make_model(), CPU, Method(probabilities=True)), draw(tmp_path / "in", 2)
    items.append(Item("</script><b>&", items[0].image))
    out = tmp_path / "out"
    batch_job.predict(predictor, items[:2], out, lineage(), None, extras=EXTRAS)
    coco = COCO(out / "predictions_coco.json")
    assert [category["name"] for category in coco.loadCats([0, 7])] == ["sky", "road"]
    lines = (out / "areas.csv").read_text("utf-8-sig").splitlines()
    assert lines[0] == "picture,class,pixels,share" and len(lines) == 1 + 2 * 2
    for number, record in enumerate(_records(out), 1):
        with Image.open(out / record["mask"]) as mask:
            values = np.asarray(mask)
        with np.load(out / record["probabilities"]) as saved:
            assert saved["classes"].tolist() == ["sky", "road"] and saved["probabilities"].dtype == np.float16
            assert (saved["probabilities"].argmax(0) * 7 == values).mean() > 0.98, "except for ties in float16"
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            assert np.array_equal(coco.annToMask(annotation), values == annotation["category_id"])
        assert f"{record['input']},road,{(values == 7).sum()}," in "\n".join(lines)
    batch_job.predict(predictor, items[2:], out, lineage(), None)
    page = (out / "index.html").read_text()
    assert page.count("</script>") == 3 and "<b>" not in page, "names are escaped"
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert [image["name"] for image in data["images"]] == ["</script><b>&"]
    assert sorted(p.name for p in out.iterdir()) == ["<", "index.html", "predictions.json"], "older files are removed"


def test_metrics_are_the_same_after_resuming(tmp_path: Path) -> None:
    predictor, items = Predictor(make_model(), CPU), draw(tmp_path / "in", 10)
    random = np.random.default_rng(1)
    labelled = []
    for item in items:
        with Image.open(item.image) as image:
            values = random.choice(np.array([0, 7, 9], np.uint8), (image.height, image.width))
        mask = tmp_path / f"{item.name}_label.png"
        Image.fromarray(values).save(mask)
        labelled.append(Item(item.name, item.image, mask))
    first = batch_job.predict(predictor, labelled, tmp_path / "out", lineage(), "val")
    again = batch_job.predict(predictor, labelled, tmp_path / "out", lineage(), "val", resume=True)
    assert again.reused == 10 and first.miou is not None
    assert (again.accuracy, again.miou, again.iou) == (first.accuracy, first.miou, first.iou)


def test_the_pipeline_keeps_order_yields_usage_errors_and_raises_others() -> None:
    def read(item: int) -> int:
        if item % 5 == 3:
            raise UsageError(f"broken {item}")
        time.sleep(0.002 * (item % 3))
        return item * 10

    written = []

    def write(item: int, decoded: int, result: int) -> int:
        written.append(item)
        return decoded + result

    batches = [list(range(start, start + 4)) for start in range(0, 40, 4)]
    stages = pipeline.Stages(read, lambda batch: [1] * len(batch), write)
    got = [(item, outcome) for item, outcome in pipeline.run(iter(batches), stages, streams=2, helpers=3)]
    assert [item for item, _ in got] == list(range(40))
    assert [r for i, r in got if i % 5 != 3] == [i * 10 + 1 for i in range(40) if i % 5 != 3]
    assert all(isinstance(r, UsageError) and str(r) == f"broken {i}" for i, r in got if i % 5 == 3)

    def fail(batch: list[int]) -> list[int]:
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        list(pipeline.run(batches, pipeline.Stages(read, fail, write), streams=1, helpers=1))


def test_read_ahead_of_the_pipeline_is_bounded() -> None:
    read: list[int] = []
    done: list[int] = []
    most = 0

    def compute(batch: list[int]) -> list[int]:
        nonlocal most
        most = max(most, len(read) - len(done))
        return batch

    def note(item: int) -> int:
        read.append(item)
        return item

    stages = pipeline.Stages(note, compute, lambda i, _, r: i)
    for item, _ in pipeline.run([[i] for i in range(200)], stages, streams=2, helpers=2):
        done.append(item)
        time.sleep(0.001)
    assert len(done) == 200 and most <= 2 + pipeline.READ_AHEAD + 2


def test_thousands_of_equal_names_become_unique(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "x/A.jpg", "x/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    names = [item.name for item in inputs.collect_items([tmp_path / "x", tmp_path / "y"])]
    assert len({name.casefold() for name in names}) == 4, "also on a case-insensitive file system"
    start = time.process_time()
    many = inputs.collect_items([tmp_path / "x/b.png"] * 3000)
    assert len({item.name for item in many}) == 3000
    assert time.process_time() - start < 30


def test_a_second_process_cannot_write_to_a_locked_directory(once_trained: Project, tmp_path: Path) -> None:
    draw(tmp_path / "in", 2)
    with outputs.lock_output_dir(tmp_path / "out"):
        second = once_trained.run("infer.py", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert second.returncode == 2, second.stderr
    assert f"out: process {os.getpid()} (" in second.stderr and "is writing here" in second.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_job_can_be_resumed(once_trained: Project, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    draw(folder, 400)
    (folder / "200_broken.png").write_bytes(b"no image")
    arguments = ("infer.py", "--input", str(folder), "--output", str(out))
    for signal_number, code in ((SIGKILL, -SIGKILL), (SIGTERM, 130)):
        process = once_trained.start(*arguments, *(["--resume"] if signal_number == SIGTERM else []))
        before = len(_journal(out))
        while len(_journal(out)) < before + 20:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        returncode, rest = finish(process, signal_number)
        assert returncode == code, rest
    assert "images done: " in rest and ": repeat the command with --resume to continue" in rest
    assert not (out / "predictions.json").exists()
    done = once_trained.run(*arguments, "--resume")
    assert done.returncode == 1 and "200_broken.png" in done.stderr, "the unreadable image is reported at the end"
    assert "predicted 400 images" in done.stdout
    whole = once_trained.run("infer.py", "--input", str(folder), "--output", str(tmp_path / "whole"))
    assert whole.returncode == 1
    assert content(out) == content(tmp_path / "whole")


def _journal(folder: Path) -> list[str]:
    try:
        return (folder / JOURNAL).read_text().split("\n")
    except FileNotFoundError:
        return []


def test_files_that_are_not_predicted_are_named_and_every_decodable_one_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (image,) = (item.image for item in draw(folder, 1))
    jpeg, ppm = tmp_path / "x.jpg", tmp_path / "x.ppm"
    for target in (jpeg, ppm):
        Image.open(image).convert("RGB").save(target)
    for name, source in (("b.jfif", jpeg), ("C.JPG", jpeg), ("e.ppm", ppm), ("noext", jpeg), ("d.jpg_large", jpeg)):
        shutil.copy(source, folder / name)
    for name in ("c.HEIC", "d.dcm", "sub/f.nii.gz", "README", "clip.mov"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\1")
    (folder / "gone.txt").symlink_to("nowhere")
    for clutter in ("._b.jfif", "@eaDir/b.jpg/thumb.jpg", "Thumbs.db", "b.jfif:Zone.Identifier"):
        (folder / clutter).parent.mkdir(exist_ok=True, parents=True)
        (folder / clutter).write_bytes(b"\0\1")
    items = inputs.collect_items([folder])
    assert [item.name for item in items] == ["000", "C", "b", "d", "e", "noext"]
    assert not any(item.fault for item in items)
    errors = capsys.readouterr().err
    unread = "is not read: convert it to PNG, TIFF or JPEG"
    for text in (
        f"files left out: 1 (.heic {unread}): {folder / 'c.HEIC'}",
        f"files left out: 1 (.dcm {unread}): {folder / 'd.dcm'}",
        f"files left out: 1 (.nii.gz {unread}): {folder / 'sub/f.nii.gz'}",
        f"files left out: 1 (not an image file): {folder / 'README'}",
        f"files left out: 1 (a broken link): {folder / 'gone.txt'}",
        "1 video in a directory is skipped",
    ):
        assert text in errors
    assert "@eaDir" not in errors and "Zone" not in errors
