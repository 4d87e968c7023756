"""Why a server could not be reached, in terms of certificates and proxies: what is wrong, and what to set."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import NewConnectionError, ProtocolError, ProxyError, TimeoutError
from urllib3.util.ssl_match_hostname import CertificateError

from core.errors import AppError, one_line
from core.i18n import tr
from utils.network.certificates import TO_SET
from utils.network.policy import NetworkPolicy, PolicyPool
from utils.network.proxies import Proxy

UNTRUSTED = (2, 18, 19, 20, 21)  # OpenSSL's codes for a chain that does not end at a trusted authority
PROXY_AUTHENTICATION = 407
REFUSALS = (403, PROXY_AUTHENTICATION, 502, 503, 504)  # statuses of proxies that do not let a request through
NO_ANSWER = (TimeoutError, NewConnectionError, ProxyError, ProtocolError)


def explain_failure(error: BaseException, url: str, policy: NetworkPolicy, client: str) -> str | None:
    """Return why a request to `url` failed, and how to fix it; None if neither certificate nor proxy is the reason."""
    host = urlsplit(url).hostname or ""
    causes = list(_causes(error))
    proxy = policy.proxy(url)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_text(cause, host, policy, client)
        if isinstance(cause, CertificateError):  # urllib3's own comparison of names, which botocore uses
            return tr("the certificate of {host} is not valid: {reason}", host=host, reason=one_line(cause, 200))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return tr(
                "no TLS connection to {host} ({reason}): check that its URL, and that of a proxy, may start with https://",
                host=host,
                reason=_openssl_reason(cause),
            )
    if proxy is None:
        return None
    for cause in causes:
        match = re.search(r"Tunnel connection failed: (\d{3})", str(cause))
        if match:
            return explain_refusal(int(match[1]), host, proxy)
    if not any(isinstance(cause, NO_ANSWER) for cause in causes):
        return None
    return tr(
        "no answer from the proxy {proxy} ({variable}; {error_type}): correct {variable}, or add {host} to NO_PROXY",
        proxy=proxy,
        variable=proxy.variable,
        error_type=type(causes[-1]).__name__,
        host=host,
    )


def raise_if_refused(pool: PolicyPool, url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Raise AppError if the status of a health check is that of a proxy which does not let it through."""
    proxy = pool.policy.proxy(url)
    if proxy is not None and response.status in REFUSALS:
        raise AppError(explain_refusal(response.status, urlsplit(url).hostname or "", proxy))


def explain_refusal(status: int, host: str, proxy: Proxy) -> str:
    """Return the message for a status by which a proxy does not let a request through."""
    if status == PROXY_AUTHENTICATION:
        return tr(
            "the proxy {proxy} ({variable}) requires a user and password (407): set {variable}=http://USER:PASSWORD@HOST:PORT",
            proxy=proxy,
            variable=proxy.variable,
        )
    return tr(
        "the proxy {proxy} ({variable}) answered {status} for {host}: allow the host there, or add it to NO_PROXY",
        proxy=proxy,
        variable=proxy.variable,
        status=status,
        host=host,
    )


def _certificate_text(error: ssl.SSLCertVerificationError, host: str, policy: NetworkPolicy, client: str) -> str:
    reason, certificates = one_line(error.verify_message).rstrip("."), policy.certificates(client)
    if error.verify_code not in UNTRUSTED:  # expired, or of another host
        return tr("the certificate of {host} is not valid: {reason}", host=host, reason=reason)
    return tr(
        "the certificate of {host} is not trusted ({reason}) by {certificates}: set {variable} to a PEM file with the "
        "certificate of its authority",
        host=host,
        reason=reason,
        certificates=certificates,
        variable=certificates.named[0].variable if certificates.named else TO_SET,
    )


def _openssl_reason(error: ssl.SSLError) -> str:
    return (error.reason or one_line(error, 100)).replace("_", " ").lower()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that it was raised for, the first cause last."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [getattr(current, "reason", None), *current.args, current.__cause__, current.__context__]
        pending += [item for item in inner if isinstance(item, BaseException)]
