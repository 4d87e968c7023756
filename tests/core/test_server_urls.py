"""URLs of servers that cannot work are refused in one line with the fix."""

from __future__ import annotations

import pytest

import config
from core.errors import UsageError

KEYS = {"lakefs_access_key_id": "a", "lakefs_secret_access_key": "b"}


@pytest.mark.parametrize("ending", ["/api/v1", "/api/v1/", "/lake/api/v1"])
def test_lakefs_endpoint_with_the_path_of_the_api_is_refused_with_the_fix(ending: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load_settings(lakefs_endpoint=f"http://lakefs:8000{ending}", **KEYS)
    root = f"http://lakefs:8000{ending}".partition("/api/v1")[0]
    assert str(caught.value).endswith(f"leave out /api/v1: LAKEFS_ENDPOINT={root}")


@pytest.mark.parametrize("endpoint", ["http://lakefs:8000", "https://host/lake/", "http://host/api/v1x"])
def test_other_lakefs_endpoints_are_accepted(endpoint: str) -> None:
    assert config.load_settings(lakefs_endpoint=endpoint, **KEYS).lakefs_endpoint == endpoint


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("mlflow.example.org", "http://mlflow.example.org"),
        ("http:/mlflow:5000", "http://mlflow:5000"),
        ("http:mlflow:5000", "http://mlflow:5000"),
        ("https//mlflow", "http://mlflow"),
        ("http://", "http(s)://HOST[:PORT]"),
        ("http://:5000", "http(s)://HOST[:PORT]"),
        ("me:SECRET@mlflow:5000", "http://mlflow:5000"),
        ("./mlflow.db", "sqlite:///./mlflow.db"),
        ("/srv/mlruns", "sqlite:////srv/mlruns"),
        ("mlflow.db", "sqlite:///mlflow.db"),
        ("C:\\data\\mlflow.db", "sqlite:///C:\\data\\mlflow.db"),
    ],
)
def test_tracking_uri_that_is_not_a_url_is_refused_with_what_was_meant(uri: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load_settings(mlflow_tracking_uri=uri)
    text = str(caught.value)
    assert text.endswith(f"did you mean MLFLOW_TRACKING_URI={meant}?") and "SECRET" not in text


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///a.db", "http://mlflow:5000", "https://u:p@mlflow/prefix", "postgresql+psycopg2://a/b", "databricks"],
)
def test_other_tracking_uris_are_accepted(uri: str) -> None:
    assert config.load_settings(mlflow_tracking_uri=uri).mlflow_tracking_uri == uri
