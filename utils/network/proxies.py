"""Which proxy leads to a server: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case.

A server on this machine is never reached through a proxy, which could not find it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from core.errors import UsageError
from core.i18n import tr

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it. `url` may hold user and password, and is never shown."""

    url: str
    variable: str

    def __str__(self) -> str:
        return self.origin

    def __repr__(self) -> str:
        return f"Proxy({self}, {self.variable})"

    @property
    def parts(self) -> SplitResult:
        """Scheme, host and port."""
        return urlsplit(self.url)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        parts = self.parts
        return str(parts.hostname), parts.port or DEFAULT_PORTS[parts.scheme]

    @property
    def origin(self) -> str:
        """URL without user and password."""
        return f"{self.parts.scheme}://{self.parts.netloc.rpartition('@')[2]}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers by which the client identifies itself to the proxy."""
        if self.parts.username is None:
            return {}
        import urllib3

        user, password = unquote(self.parts.username), unquote(self.parts.password or "")
        return dict(urllib3.make_headers(proxy_basic_auth=f"{user}:{password}"))


def find_proxy(url: str, proxies: Mapping[str, str], no_proxy: str) -> Proxy | None:
    """Return the proxy to a server; None: it is reached directly. `proxies`: scheme or "all" -> URL of the proxy.

    Raises UsageError for a proxy that is not http or https.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or is_excluded(host, parts.port or DEFAULT_PORTS.get(parts.scheme), no_proxy):
        return None
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            return _parse(proxies[scheme], _variable_of(scheme))
    return None


def _parse(url: str, variable: str) -> Proxy:
    proxy = Proxy(url if "://" in url else f"http://{url}", variable)
    try:
        usable = proxy.parts.scheme in DEFAULT_PORTS and bool(proxy.parts.hostname) and proxy.parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if usable:
        return proxy
    raise UsageError(
        tr(
            "{variable}: expected http(s)://HOST:PORT, found '{proxy}' (SOCKS is not supported): correct it, or add the "
            "server to NO_PROXY",
            variable=variable,
            proxy=url.rpartition("@")[2],
        )
    )


def _variable_of(scheme: str) -> str:
    """Return the name of the variable as it is set; upper case where the value is a setting of the system."""
    lower = f"{scheme}_proxy"
    return lower if os.environ.get(lower) else lower.upper()


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: localhost and the addresses of the loopback interface."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if address is None:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified  # 0.0.0.0 leads to this machine too


def _address(host: str) -> Address | None:
    """Return the address if the host is one, in any spelling that the system accepts, such as 127.1."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    if re.fullmatch(r"[\da-fx.]+", host) and host[:1].isdigit():
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            pass
    return None


def is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Return whether NO_PROXY names a host: by name, as a subdomain, by address, network (CIDR), or all by "*"."""
    name, address = host.rstrip(".").lower(), _address(host.lower())
    entries = [entry.strip().lower() for entry in no_proxy.replace(" ", ",").split(",") if entry.strip()]
    return any(_matches(entry, name, address, port) for entry in entries)


def _matches(entry: str, name: str, address: Address | None, port: int | None) -> bool:
    if entry == "*":
        return True
    entry, wanted = _split_port(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):(\d+)", entry)
    return (match[1], int(match[2])) if match else (entry, None)


def system_proxies() -> tuple[dict[str, str], str]:
    """Return scheme -> proxy, and the exceptions: of the environment, else of the system's settings (macOS, Windows)."""
    found = urllib.request.getproxies()
    return found, found.pop("no", "")
