"""Connections of http.client to a server, directly or through a proxy."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from urllib3.util.ssltransport import SSLTransport

from utils.network.policy import NetworkPolicy
from utils.network.proxies import DEFAULT_PORTS, Proxy


class _Forwarded(http.client.HTTPConnection):
    """Connection to a proxy, which is asked for the full URL of a server without TLS."""

    proxy: Proxy
    prefix: str  # scheme and host of the server

    def putrequest(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        super().putrequest(method, self.prefix + url, *arguments, **options)
        for name, value in self.proxy.headers.items():
            self.putheader(name, value)


class _ForwardedByTls(_Forwarded, http.client.HTTPSConnection):
    """The same to a proxy that speaks TLS."""


class _TunneledByTls(http.client.HTTPSConnection):
    """TLS connection to a server inside that to a proxy; http.client itself cannot wrap a TLS socket."""

    server: str
    proxy_context: ssl.SSLContext

    def connect(self) -> None:
        outer = socket.create_connection((self.host, self.port), self.timeout)
        self.sock: Any = self.proxy_context.wrap_socket(outer, server_hostname=self.host)
        self._tunnel()  # type: ignore[attr-defined]  # of http.client, for its subclasses
        self.sock = SSLTransport(self.sock, self.proxy_context, server_hostname=self.server)


def connect(
    origin: tuple[str, str], policy: NetworkPolicy, client: str, timeout_s: float, block: int
) -> http.client.HTTPConnection:
    """Return an open connection to a server (scheme, host[:port]). Raises OSError, or UsageError for unusable settings."""
    scheme, host = origin
    proxy = policy.proxy(f"{scheme}://{host}")
    tls = policy.context(client) if "https" in (scheme, proxy.parts.scheme if proxy else "") else None
    options: dict[str, Any] = {"timeout": timeout_s, "blocksize": block}
    connection: http.client.HTTPConnection
    if proxy is None and tls:
        connection = http.client.HTTPSConnection(host, context=tls, **options)
    elif proxy is None:
        connection = http.client.HTTPConnection(host, **options)
    elif scheme == "https":
        connection = _make_tunnel(proxy, host, tls, options)
    else:
        forwarded = (
            _ForwardedByTls(*proxy.address, context=tls, **options) if tls else _Forwarded(*proxy.address, **options)
        )
        forwarded.proxy, forwarded.prefix = proxy, f"{scheme}://{host}"
        connection = forwarded
    connection.connect()
    return connection


def _make_tunnel(
    proxy: Proxy, host: str, tls: ssl.SSLContext | None, options: dict[str, Any]
) -> http.client.HTTPSConnection:
    """Return a connection that asks the proxy for a tunnel to a server, in which TLS is spoken."""
    make = _TunneledByTls if proxy.parts.scheme == "https" else http.client.HTTPSConnection
    connection = make(*proxy.address, context=tls, **options)
    parts = urlsplit(f"https://{host}")
    connection.set_tunnel(str(parts.hostname), parts.port or DEFAULT_PORTS["https"], proxy.headers)
    if isinstance(connection, _TunneledByTls) and tls is not None:
        connection.server, connection.proxy_context = str(parts.hostname), tls
    return connection
