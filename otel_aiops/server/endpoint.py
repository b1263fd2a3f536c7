"""Endpoints: ``host:port`` to sockets that listen on every address of the host, or a clear reason why not."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import closing

from otel_aiops.errors import ConfigError

_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a host file names ::1 where IPv6 is off


def split(endpoint: str) -> tuple[str, int]:
    """Host and port of ``localhost:4317``, ``[::1]:4317`` or ``:4317``; port 0 lets the system choose.

    Raises: ConfigError without a key path.

    >>> split("[::1]:4317"), split(":0")
    (('::1', 4317), ('', 0))
    """
    host, colon, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
        raise ConfigError("", f"expected host:port, as in localhost:4317, got {endpoint!r}")
    return host[1:-1] if bracketed else host, int(port)


def check(endpoint: str) -> None:
    """Raise ConfigError under `endpoint` unless it can be split."""
    try:
        split(endpoint)
    except ConfigError as error:
        raise ConfigError("endpoint", error.message) from None


def loopback(endpoint: str) -> bool:
    """Whether an endpoint is of this machine only, as far as can be seen without asking anybody for a name.

    >>> loopback("localhost:1"), loopback("127.0.0.2:1"), loopback("[::1]:1"), loopback(":1"), loopback("10.0.0.1:1")
    (True, True, True, False, False)
    """
    return is_here(split(endpoint)[0])


def is_here(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def addresses(endpoint: str, *, path: str) -> list[tuple[str, int]]:
    """The numeric addresses of this machine that an endpoint stands for, IPv4 first; one only when the port is 0.

    Raises: ConfigError under `path` when the host is unknown or not of this machine.
    """
    host, port = split(endpoint)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise ConfigError(path, f"cannot listen on {endpoint}: unknown host: {error}") from error
    here = sorted({(str(info[4][0]), port) for info in found if _is_here(info[0], str(info[4][0]))}, key=_family)
    if not here:
        raise ConfigError(path, f"cannot listen on {endpoint}: no such address on this machine")
    return here if port else here[:1]


def bind(endpoint: str, *, path: str) -> list[socket.socket]:
    """Sockets bound to every address of an endpoint. Raises ConfigError under `path` that says why not."""
    bound: list[socket.socket] = []
    try:
        for address in addresses(endpoint, path=path):
            bound.append(_bind(address))
    except OSError as error:
        for sock in bound:
            sock.close()
        raise ConfigError(path, f"cannot listen on {endpoint}: {error.strerror}") from error
    return bound


def check_free(endpoint: str, *, path: str) -> None:
    """Raise ConfigError under `path` when `bind` would; for servers that bind themselves and say less."""
    for sock in bind(endpoint, path=path):
        sock.close()


def _bind(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen()  # another process may have bound, without listening yet
    except OSError:
        sock.close()
        raise
    return sock


def _is_here(family: socket.AddressFamily, host: str) -> bool:
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
            sock.bind((host, 0))
    except OSError as error:
        if error.errno in _NO_SUCH_ADDRESS:
            return False
        raise
    return True


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET
