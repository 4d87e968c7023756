"""Object storage under lakeFS: health and buckets, over boto3, on MinIO or any other S3."""

from __future__ import annotations

from typing import Any

from config import Settings
from utils.console import AppError, say, t

CONNECT_S, READ_S, ATTEMPTS = 5, 30, 4  # seconds, seconds, tries with botocore's backoff


def client(settings: Settings) -> Any:
    """A boto3 S3 client with path-style addresses, which every S3 server understands, time limits and retries."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.minio_endpoint,
        aws_access_key_id=settings.minio_access_key,
        aws_secret_access_key=settings.minio_secret_key,
        region_name="us-east-1",
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            s3={"addressing_style": "path"},
        ),
    )


def ensure_bucket(settings: Settings, bucket: str) -> None:
    """Make the bucket unless it is there. Raises AppError: down, wrong key, or a bucket of somebody else."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"{settings.minio_endpoint}, s3://{bucket}"
    s3 = client(settings)
    try:
        try:
            s3.head_bucket(Bucket=bucket)
            return
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
        s3.create_bucket(Bucket=bucket)
        say(f"버킷을 만들었습니다: s3://{bucket}", f"made the bucket s3://{bucket}")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "BucketAlreadyOwnedByYou":  # another process was first
            return
        raise AppError(
            t(
                f"{where}: 거부되었습니다 ({code}): MINIO_ACCESS_KEY, MINIO_SECRET_KEY 와 버킷 이름을 확인하세요",
                f"{where}: refused ({code}): check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and the bucket's name",
            )
        ) from error
    except BotoCoreError as error:
        raise AppError(
            t(
                f"{where}: 응답하지 않습니다 ({type(error).__name__}): 서버를 시작하거나 MINIO_ENDPOINT 를 고치세요",
                f"{where}: does not answer ({type(error).__name__}): start it or mend MINIO_ENDPOINT",
            )
        ) from error
