"""Import the objects of an S3 prefix into the lakeFS repository without copying them."""

from __future__ import annotations

import hashlib

from config import ROOT, Settings
from core.console import say
from core.errors import AppError, UsageError
from core.i18n import t
from utils.minio_utils import objects, split_uri


def import_prefix(settings: Settings, uri: str, destination: str, replace: bool) -> None:
    """Make the objects below an S3 prefix objects of the lakeFS branch, without copying them. Raises AppError."""
    from core.git import read_facts
    from utils.lakefs_utils import connect

    bucket, prefix = split_uri(uri)
    source = f"s3://{bucket}/{prefix.rstrip('/')}".rstrip("/") + "/"
    target = destination.strip("/") + "/" if destination.strip("/") else ""
    if not settings.lakefs_endpoint:
        raise UsageError(
            t(
                "가져오기는 S3 위의 실제 lakeFS 서버에서만 됩니다: LAKEFS_ENDPOINT 를 설정하세요 (지금은 내장 서버)",
                "import needs a real lakeFS server over S3: set LAKEFS_ENDPOINT (now the embedded server is used)",
            )
        )
    if settings.minio_endpoint and next(objects(settings, bucket, source.split("/", 3)[3]), None) is None:
        raise AppError(t(f"{source}: 객체가 없습니다", f"{source}: no objects"))
    work = f"import-{hashlib.sha256(f'{source} {target}'.encode()).hexdigest()[:24]}"
    with connect(settings, create=True) as lake:
        metadata = {**read_facts(ROOT).metadata(), "import_source": source}
        done = lake.import_objects(source, target, work, f"import {source} as {target}", metadata, replace)
        place = f"lakefs://{lake.repo}/{done.commit_id}/{target}"
    say(
        f"가져왔습니다: {place} (추가·변경 {done.uploaded}, 삭제 {done.removed}; 파일은 복사하지 않았습니다)",
        f"imported: {place} ({done.uploaded} added or changed, {done.removed} removed; no file was copied)",
    )
    say(
        f"{source} 의 객체를 바꾸거나 지우면 이 커밋을 읽을 수 없게 됩니다.",
        f"Changing or deleting objects of {source} makes this commit unreadable.",
    )
