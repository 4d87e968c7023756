"""Object storage of lakeFS (any S3, by boto3): health, buckets, listing, presigned links, import without copying.

python -m utils.minio_utils health                                    # check server, keys and bucket
python -m utils.minio_utils list                                      # buckets
python -m utils.minio_utils list s3://photos/2026/                    # objects below a prefix
python -m utils.minio_utils link s3://photos/2026/a.jpg --expires 600 # a presigned link
python -m utils.minio_utils import s3://photos/2026/ --to data/       # into lakeFS without copying
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from config import ROOT, Settings, load_settings
from core.command_line.common import make_parser, parse_command_line
from core.command_line.values import positive_int
from core.console import format_size, print_result
from core.errors import AppError, ExitCode, UsageError, one_line
from core.i18n import tr, trn
from core.process import run_script
from core.reporting import notify
from core.safety.name_rules import BUCKET
from utils.network.certificates import STORE
from utils.network.failures import REFUSALS, explain_failure, explain_refusal
from utils.network.limits import LimitExceeded, PageLimit, read_body
from utils.network.policy import NetworkPolicy

CONNECT_S, READ_S, ATTEMPTS = 5, 30, 4  # timeouts in seconds; attempts with botocore's backoff
PAGE = 1000  # entries of a listing's page; S3 allows no more
LINK_S = 900  # default validity of a presigned link in seconds
LINK_MAX_S = 7 * 24 * 3600  # seconds; the maximum of S3 signatures
_NO_BUCKET = ("NoSuchBucket", "NoSuchKey", "404", "NotFound")
_WRONG_KEY = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
    "XAdminUserNotFound",  # VersityGW's code for an unknown access key
    "401",
)


def make_client(settings: Settings) -> Any:
    """Return a boto3 S3 client with the configured region and addressing style, timeouts and retries."""
    import boto3
    from botocore.config import Config

    trust, proxies = NetworkPolicy.from_environment().boto_options(str(settings.minio_endpoint), STORE)
    client = boto3.client(
        "s3",
        endpoint_url=settings.minio_endpoint,
        aws_access_key_id=settings.minio_access_key,
        aws_secret_access_key=settings.minio_secret_key,
        region_name=settings.minio_region,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            signature_version="s3v4",  # for presigned links too: other servers do not support older versions
            s3={"addressing_style": "path" if settings.minio_path_style else "virtual"},
            **proxies,
        ),
        **trust,
    )
    _limit_answers(client)
    return client


def _limit_answers(client: Any) -> None:
    """Let a client read answers within the limits of utils/network/limits.py, by a private attribute of botocore.

    botocore reads an answer as a whole, whatever its size; its retries and its errors stay as they are.
    """
    from botocore.exceptions import HTTPClientError

    session = client._endpoint.http_session
    send = session.send

    def send_within_limits(request: Any) -> Any:
        request.stream_output = True  # else it would be read here
        response = send(request)
        if 300 <= response.status_code < 400:  # botocore would follow, or ask for the region again and again
            raise LimitExceeded(tr("the server redirects: correct MINIO_ENDPOINT and MINIO_REGION"))
        try:
            response._content = read_body(response.raw)
        except HTTPError as error:
            raise HTTPClientError(error=error) from error
        return response

    session.send = send_within_limits


@contextlib.contextmanager
def _convert_errors(settings: Settings, what: str) -> Iterator[None]:
    """Convert exceptions of botocore to AppError: server, operation, reason, how to fix it."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    endpoint = str(settings.minio_endpoint)
    where = f"{endpoint}, {what}"
    try:
        yield
    except ClientError as error:
        code, proxy = str(error.response["Error"]["Code"]), NetworkPolicy.from_environment().proxy(endpoint)
        status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        if proxy is not None and status in REFUSALS and not code.isalpha():  # stores have codes of their own
            text = explain_refusal(status, urlsplit(endpoint).hostname or "", proxy)
        elif code in _NO_BUCKET:
            text = tr("does not exist ({code})", code=code)
        elif code in _WRONG_KEY:
            text = tr(
                "wrong key or region ({code}): check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MINIO_REGION", code=code
            )
        else:
            text = tr("refused ({code}): check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and the bucket's name", code=code)
        raise AppError(f"{where}: {text}") from error
    except ParamValidationError as error:  # raised by botocore before it contacts the server
        reason = one_line(error, 200)
        raise UsageError(tr("{where}: invalid name ({reason})", where=where, reason=reason)) from error
    except LimitExceeded as error:
        raise AppError(
            tr("{what} ({where}): refused the server's response: {reason}", what=what, where=endpoint, reason=error)
        ) from error
    except BotoCoreError as error:
        network = explain_failure(error, endpoint, NetworkPolicy.from_environment(), STORE)
        if network:
            raise AppError(f"{where}: {network}") from error
        raise AppError(
            tr(
                "{where}: the server does not answer ({error_type}): start it or correct MINIO_ENDPOINT",
                where=where,
                error_type=type(error).__name__,
            )
        ) from error


def ensure_bucket(settings: Settings, bucket: str) -> None:
    """Create the bucket if it is missing. Raises UsageError for an invalid name, AppError for any other failure."""
    from botocore.exceptions import ClientError

    if not re.fullmatch(BUCKET["pattern"], bucket):
        rule = tr(BUCKET["rule"])
        raise UsageError(tr("bucket name '{bucket}': expected {rule}", bucket=bucket, rule=rule))

    s3 = make_client(settings)
    # AWS requires the region in the request, except for its default region.
    location = {"CreateBucketConfiguration": {"LocationConstraint": settings.minio_region}}
    with _convert_errors(settings, f"s3://{bucket}"):
        try:
            s3.head_bucket(Bucket=bucket)
            return
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
        try:
            s3.create_bucket(Bucket=bucket, **({} if settings.minio_region == "us-east-1" else location))
        except ClientError as error:
            if error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou":  # another process created it first
                return
            raise
        notify(tr("created the bucket s3://{bucket}", bucket=bucket))


def split_uri(uri: str, key_needed: bool = False) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key. Raises UsageError for anything else."""
    match = re.fullmatch(r"s3://([^/]+)(?:/(.*))?", uri, re.DOTALL)
    if not match or (key_needed and not match[2]):
        expected = "s3://BUCKET/KEY" if key_needed else "s3://BUCKET[/PREFIX]"
        raise UsageError(tr("not an S3 path: '{uri}' (expected {expected})", uri=uri, expected=expected))
    return match[1], match[2] or ""


def check_health(settings: Settings, bucket: str | None) -> None:
    """Check that the server answers, accepts the keys, and has the bucket. Raises AppError."""
    what = f"s3://{bucket}" if bucket else tr("the list of buckets")
    with _convert_errors(settings, what):
        s3 = make_client(settings)
        if bucket:  # a GET: a HEAD response has no body, so a wrong key could not be told from a missing permission
            s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
        else:
            s3.list_buckets()


def list_buckets(settings: Settings) -> list[str]:
    """Return the names of the buckets that the key can list."""
    with _convert_errors(settings, tr("the list of buckets")):
        return [str(bucket["Name"]) for bucket in make_client(settings).list_buckets()["Buckets"]]


def list_objects(settings: Settings, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield key and size (bytes) of every object below a prefix, page by page. Raises AppError."""
    with _convert_errors(settings, f"s3://{bucket}/{prefix}"):
        s3, limit = make_client(settings), PageLimit(PAGE)
        token: str | None = None
        while True:
            more: dict[str, str] = {"ContinuationToken": token} if token else {}
            page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **more)
            entries, token = (
                page.get("Contents", ()),
                page.get("NextContinuationToken") if page["IsTruncated"] else None,
            )
            limit.check(len(entries), token)
            for entry in entries:
                yield str(entry["Key"]), int(entry["Size"])
            if token is None:
                return


def make_presigned_link(settings: Settings, bucket: str, key: str, expires_s: int = LINK_S) -> str:
    """Return a link that reads one object without keys for `expires_s` seconds. Raises AppError if it does not exist."""
    with _convert_errors(settings, f"s3://{bucket}/{key}"):
        s3 = make_client(settings)
        s3.head_object(Bucket=bucket, Key=key)
        return str(s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, expires_s))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser("python -m utils.minio_utils", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="health|list|link|import")
    commands.add_parser("health", help=tr("check server, keys and bucket"))
    listing = commands.add_parser("list", help=tr("list buckets or objects"))
    listing.add_argument("uri", nargs="?", metavar="s3://BUCKET[/PREFIX]")
    link = commands.add_parser("link", help=tr("create a temporary link that works without keys"))
    link.add_argument("uri", metavar="s3://BUCKET/KEY")
    link.add_argument(
        "--expires",
        type=positive_int,
        default=LINK_S,
        metavar="S",
        help=tr("validity of the link in seconds (default: {link_s})", link_s=LINK_S),
    )
    importing = commands.add_parser("import", help=tr("import objects into lakeFS without copying them"))
    importing.add_argument("uri", metavar="s3://BUCKET/PREFIX")
    importing.add_argument(
        "--to",
        default="data/",
        metavar="PATH/",
        help=tr("target path in lakeFS (default: data/)"),
    )
    importing.add_argument(
        "--replace",
        action="store_true",
        help=tr("replace the existing files"),
    )
    parser.commands.update(commands.choices)
    return parse_command_line(parser, arguments)


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    options = parse(arguments)
    if options.command == "import":  # the former name of `lake.py import`, which this layer cannot call
        return subprocess.call([sys.executable, str(ROOT / "lake.py"), *arguments])
    settings = load_settings()
    if not settings.minio_endpoint:
        raise UsageError(tr("no object storage is set: put MINIO_ENDPOINT and its keys into the environment or .env"))
    if options.command == "health":
        show_health(settings)
    elif options.command == "list":
        show_list(settings, options.uri)
    else:
        if not 1 <= options.expires <= LINK_MAX_S:
            raise UsageError(
                tr("--expires {seconds}: expected 1 to {maximum} seconds", seconds=options.expires, maximum=LINK_MAX_S)
            )
        print_result(make_presigned_link(settings, *split_uri(options.uri, key_needed=True), options.expires))
    return ExitCode.DONE


def show_health(settings: Settings) -> None:
    """Check server, keys and bucket and report that they are healthy. Raises AppError."""
    place = settings.lakefs_storage_namespace or ""
    bucket = split_uri(place)[0] if place.startswith("s3://") else settings.minio_bucket
    check_health(settings, bucket)
    what = f", s3://{bucket}" if bucket else ""
    notify(tr("healthy: {minio_endpoint}{what}", minio_endpoint=settings.minio_endpoint, what=what))


def show_list(settings: Settings, uri: str | None) -> None:
    """Print the buckets, or objects with their sizes and a total."""
    if uri is None:
        for name in list_buckets(settings):
            print_result(f"s3://{name}")
        return
    bucket, prefix = split_uri(uri)
    count = total = 0
    for key, size_bytes in list_objects(settings, bucket, prefix):
        print_result(f"{format_size(size_bytes):>10}  s3://{bucket}/{key}")
        count, total = count + 1, total + size_bytes
    notify(trn("{count} object, {size}", "{count} objects, {size}", count, size=format_size(total)))


if __name__ == "__main__":
    run_script(main)
