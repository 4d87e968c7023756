"""Which server is reached through which proxy."""

from __future__ import annotations

import pytest

from utils.network.policy import NetworkPolicy
from utils.network.proxies import find_proxy, is_excluded, is_loopback


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.1", "127.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"],
)
def test_hosts_of_this_machine(host: str) -> None:
    assert is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    assert find_proxy(f"http://{shown}:5000", {"http": "http://proxy:1"}, "") is None


@pytest.mark.parametrize("host", ["notlocalhost", "localhost.example.org", "128.0.0.1", "10.0.0.1", "fe80::1", "1271"])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("no_proxy", "host", "excluded"),
    [
        ("*", "a.example.org", True),
        ("example.org", "example.org", True),
        ("example.org", "a.example.org", True),
        (".example.org", "a.example.org", True),
        ("*.example.org", "a.example.org", True),
        ("example.org", "badexample.org", False),
        ("EXAMPLE.org", "a.Example.ORG", True),
        ("x, example.org:8000", "example.org", True),
        ("example.org:8001", "example.org", False),
        ("10.0.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.2.3.4", False),
        ("10.2.3.4", "10.2.3.4", True),
        ("10.2.3.4:8000", "10.2.3.4", True),
        ("fd00::/8", "fd00::12", True),
        ("[fd00::12]:8000", "fd00::12", True),
        ("fd00::12", "fd00::13", False),
        ("", "a", False),
        (",.,", "a", False),
    ],
)
def test_exceptions_by_name_suffix_address_network_and_port(no_proxy: str, host: str, excluded: bool) -> None:
    assert is_excluded(host, 8000, no_proxy) == excluded


def test_lower_case_variables_win_and_a_proxy_needs_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"HTTP_PROXY": "http://upper:1", "http_proxy": "lower:3128", "NO_PROXY": "a.org", "no_proxy": "b.org"}
    for name in (*values, "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, values[name]) if name in values else monkeypatch.delenv(name, raising=False)
    found = NetworkPolicy.from_environment()
    proxy = found.proxy("http://a.org")
    assert proxy is not None and proxy.address == ("lower", 3128) and proxy.variable == "http_proxy"
    assert found.proxy("http://b.org") is None and found.proxy("https://a.org") is None
