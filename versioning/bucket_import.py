"""Import the objects of an S3 prefix into the lakeFS repository without copying them."""

from __future__ import annotations

import hashlib

from config import ROOT, Settings
from core.errors import AppError, UsageError
from core.i18n import tr
from core.reporting import notify
from dataset.layout.resolve import layout_metadata
from utils.minio_utils import list_objects, split_uri
from versioning.versions import DATA_PREFIX


def import_prefix(settings: Settings, uri: str, destination: str, replace: bool) -> None:
    """Import the objects below an S3 prefix into the lakeFS branch without copying them. Raises AppError."""
    from core.git import read_facts
    from utils.lakefs_utils import connect

    bucket, prefix = split_uri(uri)
    source = f"s3://{bucket}/{prefix.rstrip('/')}".rstrip("/") + "/"
    target = destination.strip("/") + "/" if destination.strip("/") else ""
    if not settings.lakefs_endpoint:
        raise UsageError(
            tr("import needs a real lakeFS server over S3: set LAKEFS_ENDPOINT (now the embedded server is used)")
        )
    if settings.minio_endpoint and next(list_objects(settings, bucket, source.split("/", 3)[3]), None) is None:
        raise AppError(tr("{source}: no objects", source=source))
    work = f"import-{hashlib.sha256(f'{source} {target}'.encode()).hexdigest()[:24]}"
    with connect(settings, create=True) as lake:
        metadata = {**read_facts(ROOT).metadata(), "import_source": source}
        describe = layout_metadata if target == DATA_PREFIX else None  # only there the quality gate matches names
        done = lake.import_objects(source, target, work, f"import {source} as {target}", metadata, replace, describe)
        place = f"lakefs://{lake.repo}/{done.commit_id}/{target}"
    notify(
        tr(
            "imported: {place} ({uploaded} added or changed, {removed} removed; no file was copied)",
            place=place,
            uploaded=done.uploaded,
            removed=done.removed,
        )
    )
    notify(tr("Changing or deleting objects of {source} makes this commit unreadable.", source=source))
