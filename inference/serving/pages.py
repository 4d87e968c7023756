"""The HTML pages of `infer.py --serve`, one text per language; each allows only its own style and scripts, by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.i18n import LANGUAGES, current_language, language_scope, tr
from core.safety.html import content_policy, render
from dataset.classes import ClassMap
from dataset.overlay import SMALL_SIDE, class_legend
from inference.serving.openapi import Schema
from segmentation.reliability.reasons import describe_reasons
from segmentation.reliability.statistics import REASONS

HERE = Path(__file__).parent
SERVE, API = HERE / "serve.html", HERE / "api.html"
ADDITIONS = "; frame-ancestors 'none'"  # to the policy of every page


@dataclass(frozen=True)
class Page:
    """A page: language -> text, and its Content-Security-Policy."""

    texts: dict[str, str]
    policy: str


def render_serve(classes: ClassMap, origin: Mapping[str, Any], max_bytes: int, max_pixels: int, example: bool) -> Page:
    """Return the page that shows the mask of an image; `example`: whether it asks the server for an example."""
    policy = content_policy(SERVE, "blob: data:", f"; connect-src 'self'{ADDITIONS}")
    texts = {}
    for language in LANGUAGES:
        with language_scope(language):
            legend, inserted = class_legend(classes), _texts(max_bytes, max_pixels)
            data = {
                "text": inserted,
                "max_bytes": max_bytes,
                "small_side": SMALL_SIDE,
                "classes": [{"name": name, "color": color} for color, name in legend],
                "example": example,
                "reasons": {reason: describe_reasons([reason]) for reason in REASONS},
            }
            texts[language] = render(
                SERVE, title=title_of(origin), legend=legend, origin=list(origin.items()), limits=inserted["limits"],
                data=data, panels=[(kind, inserted[kind]) for kind in ("image", "mask", "prediction")],
            )  # fmt: skip
    return Page(texts, policy)


def render_api(schemas: Mapping[str, Schema]) -> Page:
    """Return the page that shows a description of the API; `schemas`: language -> description."""
    texts = {}
    for language, schema in schemas.items():
        with language_scope(language):
            texts[language] = render(API, api=schema, operations=_operations(schema))
    return Page(texts, content_policy(API, "'none'", ADDITIONS))


def title_of(origin: Mapping[str, Any]) -> str:
    """Return the name of the model: its registered version, else its run."""
    return str(origin["model_version"] or tr("run") + f" {origin['run_id']}")


def text_of(page: Page) -> str:
    """Return the text of a page in the current language."""
    return page.texts[current_language()]


def _operations(schema: Schema) -> list[dict[str, Any]]:
    """Return what the page shows of each operation: method, path, texts, request types, rows of answers."""
    found = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            answers = [
                [status, answer["description"], ", ".join(answer.get("content", {}))]
                for status, answer in operation["responses"].items()
            ]
            bodies = ", ".join(operation.get("requestBody", {}).get("content", {}))
            found.append({"method": method.upper(), "path": path, **operation, "answers": answers, "bodies": bodies})
    return found


def _texts(max_bytes: int, max_pixels: int) -> dict[str, str]:
    """Return the texts that the script of the page inserts."""
    megabytes, megapixels = max_bytes / 1e6, max_pixels / 1e6
    return {
        "limits": tr(
            "up to {megabytes:g} MB and {megapixels:g} megapixels", megabytes=megabytes, megapixels=megapixels
        ),
        "wait": tr("predicting…"),
        "large": tr("the file is too large"),
        "lost": tr("the server does not respond"),
        "image": tr("image"),
        "prediction": tr("prediction"),
        "mask": tr("mask"),
        "share": tr("share of the image"),
        "confidence": tr("confidence"),
        "unlike": tr("unlike the images of the training:"),
        "no_preview": tr("this browser cannot show the format of the image: only the mask is shown"),
        "test": tr("example: an image of the test split of this machine's data directory"),
        "val": tr("example: an image of the validation split of this machine's data directory"),
        "train": tr("example: an image of this machine's data directory that models are trained on"),
    }
