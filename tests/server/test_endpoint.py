"""Endpoints: what can be written, and what is listened on."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError
from otel_aiops.server import endpoint


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:4317", ("localhost", 4317)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        (":4318", ("", 4318)),
        ("[::1]:4317", ("::1", 4317)),
        ("[::]:65535", ("::", 65535)),
        ("otel-aiops.example:1", ("otel-aiops.example", 1)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert endpoint.split(text) == expected
    endpoint.check(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "4317", "localhost", "localhost:", "localhost:grpc", "localhost:-1", "localhost:65536", "::1:4317"),
        *("[::1]", "http://localhost:4318", "localhost:4318/v1/metrics", "localhost:٤٣١٧", "localhost: 4317"),
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^expected host:port, as in localhost:4317, got ") as caught:
        endpoint.split(text)
    assert caught.value.path == ""
    with pytest.raises(ConfigError) as caught:
        endpoint.check(text)
    assert caught.value.path == "endpoint"


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        host, port = endpoint.split(text)
    except ConfigError:
        return
    assert 0 <= port <= 65535
    assert text.startswith(host) or text.startswith(f"[{host}]")


@pytest.mark.parametrize("host", ["host.invalid", "a" * 70, "a\0b", "a..b"])
def test_unknown_hosts(host: str) -> None:
    with pytest.raises(ConfigError, match="unknown host") as caught:
        endpoint.bind(f"{host}:0", path="receivers.x.endpoint")
    assert caught.value.path == "receivers.x.endpoint"


def test_the_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"x: cannot listen on 192\.0\.2\.1:4317: no such address on this machine"):
        endpoint.addresses("192.0.2.1:4317", path="x")


def test_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is often two addresses, and each more than once."""

    def found(host: str | None, port: int, **_: Any) -> list[Any]:
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [six, four, four]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    expected = [("127.0.0.1", 4317), ("::1", 4317)] if has_ipv6() else [("127.0.0.1", 4317)]
    assert endpoint.addresses("localhost:4317", path="x") == expected
    assert endpoint.addresses("localhost:0", path="x") == [("127.0.0.1", 0)], "one port, so one address"


@needs_ipv6
def test_both_families_of_every_address() -> None:
    (probe,) = endpoint.bind("127.0.0.1:0", path="x")
    port = probe.getsockname()[1]
    probe.close()
    sockets = endpoint.bind(f":{port}", path="x")
    try:
        assert [sock.family for sock in sockets] == [socket.AF_INET, socket.AF_INET6]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()
    finally:
        for sock in sockets:
            sock.close()


def test_a_family_that_is_off_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    assert not endpoint._is_here(socket.AF_INET6, "::1")
    assert endpoint._is_here(socket.AF_INET, "127.0.0.1")


def test_other_faults_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(ConfigError, match=r"x: cannot listen on 127.0.0.1:4317: Too many open files"):
        endpoint.bind("127.0.0.1:4317", path="x")


def test_a_taken_port() -> None:
    (sock,) = endpoint.bind("127.0.0.1:0", path="x")
    with sock:
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        for attempt in (endpoint.bind, endpoint.check_free):
            with pytest.raises(ConfigError, match=f"x: cannot listen on {taken}: Address already in use"):
                attempt(taken, path="x")
    endpoint.check_free(taken, path="x")
    endpoint.bind(taken, path="x")[0].close()


@needs_ipv6
def test_when_one_of_two_addresses_is_taken_none_is_kept() -> None:
    (sock,) = endpoint.bind("[::1]:0", path="x")
    port = sock.getsockname()[1]
    with sock, pytest.raises(ConfigError):
        endpoint.bind(f":{port}", path="x")
    endpoint.check_free(f"127.0.0.1:{port}", path="x")
