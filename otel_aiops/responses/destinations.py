"""Where requests may go: to the host that was configured and below its path, and never to what hands out credentials.

Clouds tell every machine its credentials at link-local addresses. A name that leads there, by mistake or because
somebody else answers for it, is not followed; who means such an address writes it as a number.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

NEVER: Final = (
    *(ip_network(one) for one in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32")),  # link-local; AWS by IPv6
    *(ip_network(f"{one}/32") for one in ("100.100.100.200", "168.63.129.16", "192.0.0.192")),  # Alibaba, Azure, Oracle
)
TRANSLATED: Final = ip_network("64:ff9b::/96")  # IPv4 by way of IPv6


class Forbidden(NewConnectionError):
    """A name leads to an address that is not to be asked. No connection came about."""


def session() -> requests.Session:
    """A session that connects with nothing that is forbidden."""
    found = requests.Session()
    for scheme in ("http://", "https://"):
        found.mount(scheme, _Adapter())
    return found


def is_below(url: str, base: str) -> bool:
    """Whether an address has the origin of another one, and is at its path or deeper.

    >>> is_below("http://a/x/y?z=1", "http://a/x"), is_below("http://a/x/../y", "http://a/x")
    (True, False)
    """
    parts, wanted = urlsplit(url), urlsplit(base)
    same = (parts.scheme, parts.netloc) == (wanted.scheme, wanted.netloc)
    root = wanted.path.rstrip("/")
    deeper = parts.path == wanted.path or parts.path.startswith(f"{root}/")
    return same and deeper and not is_walk(parts.path[len(root) :]) and not any(one <= " " for one in url)


def is_walk(path: str) -> bool:
    """Whether a path leaves where it begins, however that is written.

    >>> is_walk("/a/%2e%2E/b"), is_walk("/a/..b")
    (True, False)
    """
    return any(unquote(one) in (".", "..") for one in path.replace("\\", "/").split("/"))


def forbidden(address: str) -> bool:
    """Whether a number is of an address that only who writes it means.

    >>> forbidden("169.254.169.254"), forbidden("::ffff:169.254.169.254"), forbidden("10.0.0.1")
    (True, True, False)
    """
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = IPv4Address(int(found) & 0xFFFFFFFF) if found in TRANSLATED else found.ipv4_mapped or found
    return any(found in one for one in NEVER if one.version == found.version)


def check_host(host: str, port: int | None = None) -> None:
    """See that a host that was configured does not lead to a forbidden address. Raises: ValueError that names it."""
    if _is_number(host):
        return
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return  # it is nowhere: who connects with it will say so
    for address in sorted(found):
        if forbidden(address):
            raise ValueError(f"{host} leads to {address}, which is asked only where that number is configured")


def _is_number(host: str) -> bool:
    try:
        ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _connected(connection: HTTPConnection, connect: Any) -> socket.socket:
    """Look where a name leads before a connection, and once more where it has led."""
    host = connection.host
    try:
        check_host(host, connection.port)
    except ValueError as error:
        raise Forbidden(connection, str(error)) from error
    made: socket.socket = connect()
    if not _is_number(host) and forbidden(peer := str(made.getpeername()[0])):
        made.close()
        raise Forbidden(connection, f"{host} leads to {peer}")
    return made


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
