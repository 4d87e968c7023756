"""The one policy by which every client reaches its server: TLS certificates and proxies of the environment."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import urllib3

from utils.network import proxies
from utils.network.certificates import MLFLOW, OWN_VARIABLES, TO_SET, VARIABLES, Certificates
from utils.network.limits import follow_redirect, read_body, with_body
from utils.network.proxies import Proxy, find_proxy

# Variable -> (value that `prepare_mlflow` set for MLflow's own client, value before): the policy is that of the user.
_exported: dict[str, tuple[str, str | None]] = {}


@dataclass(frozen=True)
class NetworkPolicy:
    """Certificates and proxies for the clients of lakeFS, object storage and MLflow."""

    variables: Mapping[str, str]  # of certificates
    proxies: Mapping[str, str] = field(repr=False)  # scheme or "all" -> URL, which may hold a password
    no_proxy: str
    _contexts: dict[str, ssl.SSLContext] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> NetworkPolicy:
        """Return the policy of the environment variables of this process, as the user has set them."""
        found, no_proxy = proxies.system_proxies()
        return cls({name: value for name in VARIABLES if (value := _own_value(name))}, found, no_proxy)

    def proxy(self, url: str) -> Proxy | None:
        """Return the proxy that leads to a server; None: it is reached directly. Raises UsageError for an invalid one."""
        return find_proxy(url, self.proxies, self.no_proxy)

    def certificates(self, client: str) -> Certificates:
        """Return the authorities that a client trusts. Raises UsageError for variables that contradict each other."""
        return Certificates.of(self.variables, client)

    def context(self, client: str) -> ssl.SSLContext:
        """Return the TLS context of a client. Raises UsageError that names the variable of an unusable file."""
        if client not in self._contexts:
            self._contexts[client] = self.certificates(client).context()
        return self._contexts[client]

    def boto_options(self, url: str, client: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of boto3.client, and those of its Config, that make it follow the policy."""
        proxy = self.proxy(url)
        config = {
            "proxies": {urlsplit(url).scheme: proxy.url} if proxy else {}
        }  # {}: none, whatever the environment says
        if urlsplit(url).scheme != "https":
            return {}, config
        return {"verify": self.certificates(client).bundle()}, config


def _own_value(name: str) -> str | None:
    """Return the user's value of a variable, also after `prepare_mlflow` has replaced it."""
    value = os.environ.get(name)
    ours, before = _exported.get(name, (None, None))
    return before if value is not None and value == ours else value


class PolicyPool(urllib3.PoolManager):
    """Connection pool of one client that takes certificates and proxies from a policy, for any URL.

    A response is read at once, within the limits of utils/network/limits.py: urllib3 itself follows redirects anywhere and
    decompresses without a limit.
    """

    def __init__(self, policy: NetworkPolicy, client: str, **options: Any) -> None:
        super().__init__(**options)
        self.policy, self.client = policy, client
        self._through: dict[tuple[Proxy, bool], urllib3.ProxyManager] = {}

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request directly, or through the proxy that the policy names. Raises LimitExceeded, HTTPError."""
        body, followed = options.get("body"), 0
        start = body.tell() if body is not None and hasattr(body, "tell") else None
        while True:
            response = self._send(method, url, options)
            try:
                location = redirect and response.get_redirect_location()
                if not location:
                    return with_body(response, read_body(response))
                url, followed = follow_redirect(method, url, location, followed), followed + 1
            except urllib3.exceptions.HTTPError as error:  # the connection broke: retried, as by urllib3 while it reads
                retries = response.retries or urllib3.Retry.DEFAULT
                options["retries"] = retries.increment(method, urlsplit(url).path, error=error, _pool=cast(Any, url))
                options["retries"].sleep()
                if body is not None and start is not None:
                    body.seek(start)
            finally:
                response.close()  # does nothing to the connection of a response that was read to its end

    def _send(self, method: str, url: str, options: dict[str, Any]) -> urllib3.BaseHTTPResponse:
        options = {**options, "redirect": False, "preload_content": False, "decode_content": False}
        proxy, tls = self.policy.proxy(url), url.lower().startswith("https:")
        if proxy is not None:
            return self._manager(proxy, tls).urlopen(method, url, **options)
        if tls and "ssl_context" not in self.connection_pool_kw:
            self.connection_pool_kw["ssl_context"] = self.policy.context(self.client)
        return super().urlopen(method, url, **options)

    def _manager(self, proxy: Proxy, tls: bool) -> urllib3.ProxyManager:
        """Return the pool of connections through a proxy; without `tls` no certificate is looked at."""
        if (proxy, tls) not in self._through:
            options = {**self.connection_pool_kw, "proxy_headers": proxy.headers}
            if tls or proxy.parts.scheme == "https":
                options["ssl_context"] = options["proxy_ssl_context"] = self.policy.context(self.client)
            self._through[proxy, tls] = urllib3.ProxyManager(proxy.origin, **options)
        return self._through[proxy, tls]

    def clear(self) -> None:
        """Close all connections."""
        super().clear()
        for manager in self._through.values():
            manager.clear()


def prepare_mlflow(uri: str) -> None:
    """Let MLflow's own client follow the policy, by the environment variables that it looks at.

    A server that is reached directly is added to NO_PROXY, and the trusted authorities become its one certificate file.
    Raises UsageError for unusable variables.
    """
    policy, parts = NetworkPolicy.from_environment(), urlsplit(uri)
    host = parts.hostname or ""
    if policy.proxies and policy.proxy(uri) is None:
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or policy.no_proxy
        if host not in known.split(","):
            os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [known, host]))
    certificates = policy.certificates(MLFLOW)
    if parts.scheme == "https" and certificates.verify:
        bundle = certificates.bundle()
        for name in (OWN_VARIABLES[MLFLOW], *([TO_SET] if certificates.named else [])):
            _exported[name] = (bundle, _own_value(name))
            os.environ[name] = bundle
