"""The OpenAPI description of `infer.py --serve`: `/openapi.json`, and the page `/docs` that shows it."""

from __future__ import annotations

from typing import Any

from core.i18n import tr
from inference.formats import ENSEMBLE
from segmentation.reliability.statistics import REASONS

API_VERSION = "1.1"  # of the HTTP API: a change that breaks clients needs a new major version
Schema = dict[str, Any]


def describe_api(title: str, max_bytes: int, max_pixels: int, timeout_s: float) -> Schema:
    """Return the description as OpenAPI 3.1, in the current language."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": API_VERSION,
            "description": tr(
                "One model behind HTTP: images of at most {max_bytes:,} bytes and {max_pixels:,} pixels, "
                "{timeout_s:g} s for an upload and for a prediction. Messages are in the language of Accept-Language.",
                max_bytes=max_bytes,
                max_pixels=max_pixels,
                timeout_s=timeout_s,
            ),
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/predict": {"post": _predict()},
            "/healthz": {"get": _health()},
            "/metrics": {"get": _metrics()},
            "/example": {"get": _example()},
            "/openapi.json": {"get": _openapi()},
            "/docs": {"get": _page("docs", tr("This description as a page"))},
            "/": {"get": _page("page", tr("The page that shows the mask of an image"))},
        },
        "components": {"schemas": _schemas()},
    }


def _predict() -> Schema:
    binary: Schema = {"schema": {"type": "string", "format": "binary"}}
    form: Schema = {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary", "description": tr("the image file")}},
            "required": ["file"],
        }
    }
    return {
        "operationId": "predict",
        "summary": tr("Predict the mask of an image"),
        "description": tr(
            "The body is an image file (PNG, JPEG, BMP, TIFF, WebP, GIF or PPM), or a form with one file. The answer is "
            "the mask as PNG in class colours, with its origin in the PNG text, or JSON if Accept asks for it."
        ),
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": form, "application/octet-stream": binary, "image/*": binary},
        },
        "responses": {
            "200": {
                "description": tr("The mask"),
                "content": {"image/png": binary, "application/json": {"schema": _reference("Prediction")}},
            },
            **_errors(
                {
                    400: tr("No complete image"),
                    408: tr("The upload took too long"),
                    413: tr("Too many bytes or pixels"),
                    503: tr("Overloaded, out of memory, or not finished in time"),
                }
            ),
        },
    }


def _health() -> Schema:
    return {
        "operationId": "health",
        "summary": tr("Whether the model is loaded and answers"),
        "responses": {
            "200": _json(tr("The model answers"), "Health"),
            **_errors({503: tr("A prediction hangs: restart the server")}),
        },
    }


def _metrics() -> Schema:
    return {
        "operationId": "metrics",
        "summary": tr("Counters for Prometheus"),
        "responses": {
            "200": {
                "description": tr("The counters"),
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_errors({501: tr("prometheus-client is not installed on the server")}),
        },
    }


def _example() -> Schema:
    return {
        "operationId": "example",
        "summary": tr("An image of the server's data directory with its prediction, only if the server is local"),
        "responses": {
            "200": _json(tr("The example"), "Example"),
            **_errors({404: tr("No example"), 503: tr("Overloaded, out of memory, or not finished in time")}),
        },
    }


def _openapi() -> Schema:
    return {
        "operationId": "openapi",
        "summary": tr("This description"),
        "responses": {
            "200": {
                "description": "OpenAPI 3.1",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }


def _page(name: str, summary: str) -> Schema:
    content = {"text/html": {"schema": {"type": "string"}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "HTML", "content": content}},
    }


def _json(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}


def _errors(descriptions: dict[int, str]) -> Schema:
    return {str(status): _json(description, "Error") for status, description in descriptions.items()}


def _reference(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}


def _schemas() -> Schema:
    text: Schema = {"type": "string"}
    optional: Schema = {"type": ["string", "null"]}
    count: Schema = {"type": "integer", "minimum": 0}
    sha256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    png: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
    shares: Schema = {
        "type": "object",
        "description": tr("class name: share of the pixels"),
        "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
    }
    prediction: Schema = {
        "height": count,
        "width": count,
        "class_shares": shares,
        "input_sha256": sha256,
        "mask_sha256": sha256,
        "confidence": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": tr("mean of the largest class probability"),
        },
        "mask_png_base64": png,
        "model_version": optional,
        "run_id": text,
        "lakefs_model_path": text,
        "model_sha256": sha256,
        "lakefs_data_path": text,
        "git_commit": text,
    }
    optional_parts: Schema = {
        "drift": _drift(),
        "truncated": {"type": "boolean", "description": tr("the end of the file is missing")},
        ENSEMBLE: {
            "type": "array",
            "description": tr("the model files whose predictions are averaged"),
            "items": _object({"file": text, "sha256": sha256}),
        },
    }
    health: Schema = {
        "status": {"const": "ok"},
        "model_version": optional,
        "run_id": text,
        "model_sha256": sha256,
        "api_version": text,
        "waiting_images": count,
    }
    example: Schema = {"name": text, "split": {"enum": ["train", "val", "test"]}, "image_png_base64": png}
    return {
        "Prediction": _object(prediction, optional_parts),
        "Health": _object(health),
        "Example": _object({**example, **prediction}, optional_parts),
        "Error": _object({"error": {"type": "string", "description": tr("what was expected and found, in one line")}}),
    }


def _drift() -> Schema:
    return {
        "type": "object",
        "description": tr(
            "whether the image is unlike those of the training; only if the model knows what they are like"
        ),
        "properties": {
            "flagged": {"type": "boolean"},
            "score": {"type": "number", "minimum": 0, "description": tr("flagged above 1")},
            "reasons": {"type": "array", "items": {"enum": list(REASONS)}},
        },
        "required": ["flagged", "score", "reasons"],
    }


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
