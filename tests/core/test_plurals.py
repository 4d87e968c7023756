"""English texts count correctly: "1 image", never "1 images"."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from core import i18n
from tools import catalogue

# A field, up to two words, and a noun in the plural: "{count} images", "{count} most uncertain images". What follows
# "of" is not counted by the field: in "{count} of the images", the noun is plural whatever the number.
COUNTED = re.compile(r"\{([a-z_]+)(?::[^}]*)?\}(?: (?!of\b)[A-Za-z-]+){0,2}? (?!of\b)([A-Za-z]+s)(?![A-Za-z])")
NOT_A_PLURAL = re.compile(
    r"as|has|is|ms|process|this|was|(belong|come|connect|contain|decide|differ|doe|download|exist|ignore|lack|lead|list"
    r"|load|look|make|matche|need|return|say|show|stay|store|use)s"
)
# Fields with one meaning in all messages.
LIMITS = {"least", "limit", "max_bytes", "max_pixels", "max_values", "maximum", "minimum", "most"}  # none of them is 1
TEXTS = {"b", "classes_file", "file", "list", "lock_name", "name", "need", "path", "uri"}
EXCEPTIONS = {
    "a size of an image, a tile or a file that is larger than 1": {
        "out of memory: continuing with tiles of {tile} pixels",
        "tiles of {tile} pixels may show seams with this network: use at least {enough}",
        "{path}: {width}x{height} pixels, predicted in windows",
        "up to {megabytes:g} MB and {megapixels:g} megapixels",
        "all tensors: {claimed:,} bytes claimed, {found:,} in the file",
        "tensor {name}: {claimed:,} bytes claimed, {found:,} in the file",
        "entries declare {declared:,} bytes in a file of {count:,}, compressed: {packed}",
        "{size:,} bytes",  # of a file above 1 GB
        "{source}: {size} bytes, expected at most {limit}",
    },
    "a number that exceeds a limit above 1": {
        "a page has {count} entries, expected at most {limit}",
        "a pickle of {count:,} bytes, expected at most {limit:,}",
        "a tensor of the shape {shape} in {count:,} values",
        "{count} runs: following the newest {most}",
        "{count} values with JPEG artefacts ({values}): store masks as PNG",
    },
    "a number that is at least 2": {
        "'{text}' does not name a run{hint} (expected at least {count} characters of a run ID, a version: {versions}; "
        "a tag: {tags}; or {lock})",
        "'{text}' is not a model{hint} (versions: {versions}; tags: {tags}; {lock}; or a run by at least {count} "
        "characters of its ID, or a model file)",
        "--folds {folds}: --init {reference} is an ensemble of {count} models: use --folds {count}",
        "--init {reference}: an ensemble of {count} models cannot start fold {fold}: use --folds {count}",
        "--init {reference}: an ensemble of {count} models: train with --folds {count}, or start from one of them: {member}",
        "--smoke: {count} batches",
        "1 to {count} members",
        "images in train and val: {count}: python train.py --folds {folds} judges a model by all of them, not by the {val} of val",
        "out-of-fold, all {count} images of train and val: accuracy {accuracy:.4f}, mIoU {miou}",
        "the first {count} trials failed: {reason}",
        "{count} numbers",
        "{metric} of each slice of REGISTER_SLICES. Slices with fewer than {count} groups have no interval.",
        "1 to {count} classes",
        "1 to {count} classes, each name once",
        "BATCH_SIZE={batch_size}: {world_size} processes need at least {least}; it is the sum over all processes",
        "about {steps} steps; {count} training images in batches of {batch}",
        "at most {count} classes",
        "colour space {space} of {bits} bits (convert it to RGB)",
        "input images are shown for {count} images only: those with the lowest mIoU, or the first ones",
        "model {model}: {parameters:,} parameters, {count} classes, device {device}",
        "several channels of {bits} bits",
        "the gain {gain:+.4f} may be chance: {confidence:.0%} interval over {count} groups [{low:+.4f}, {high:+.4f}]",
        "{count} bits",
        "{count} masks ranked, the first {shown} to look at: {page} (all of them: {table})",
        "{epochs} epochs: less would lead to overfitting",
        "{mean} ({present} of {total} classes)",
        "{shown} of {count} masks, the most suspicious first. Each was predicted by a model that was trained without "
        "it; a high place means that a typical mistake explains the difference, not that the mask is wrong.",
    },
    "of a threshold on many images": {
        "{metric} {value} < threshold {threshold:.4f} on the {count} images of {split} that neither the model nor the "
        "one that it started from was trained on",
    },
    "a verb": {"bands: the initial model knows {known}; {count} more start from the mean of their filters"},
    "a rate": {
        "{epoch}  loss {train_loss:.4f}, val {val_loss:.4f}  accuracy {accuracy:.4f}  mIoU {miou}{mark}  "
        "{speed:.1f} images/s",
        "{epoch}  train loss {train_loss:.4f}  {speed:.1f} images/s",
    },
}


def wrong(message: catalogue.MessageId) -> list[str]:
    """Return the nouns of a message that are wrong if their number is 1."""
    if isinstance(message, str):
        return [noun for _, noun in counted(message)]
    singular, plural = message
    return [noun for _, noun in counted(singular)] + [noun for field, noun in counted(plural) if field != "count"]


def counted(text: str) -> Iterator[tuple[str, str]]:
    """Yield each field that a noun in the plural follows, with the noun."""
    for field, noun in COUNTED.findall(text):
        if not NOT_A_PLURAL.fullmatch(noun) and field not in LIMITS | TEXTS:
            yield field, noun


def test_every_counted_noun_has_a_singular() -> None:
    excused = set().union(*EXCEPTIONS.values())
    found = {catalogue.forms(message)[-1] for message in catalogue.extracted() if wrong(message)}
    assert found - excused == set(), "use trn, or give the reason in EXCEPTIONS"
    assert excused - found == set(), "these exceptions are not needed any more"


@pytest.mark.parametrize(
    ("message", "nouns"),
    [
        ("{count} images", ["images"]),
        ("on {count} new images of {split}", ["images"]),
        ("{count} of the images", []),
        ("images: {count}", []),
        (("{count} image", "{count} images"), []),
        (("{count} image", "{count} images in {folders} folders"), ["folders"]),
        (("{count} images", "{count} images"), ["images"]),
    ],
)
def test_scan_finds_nouns_without_a_singular(message: catalogue.MessageId, nouns: list[str]) -> None:
    assert wrong(message) == nouns


def test_counts_follow_the_language_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(i18n, "_language", "ko")
    with i18n.language_scope("en"):
        assert i18n.trn("{count} file", "{count} files", 1) == "1 file"
        assert i18n.trn("{count} file", "{count} files", 2) == "2 files"
