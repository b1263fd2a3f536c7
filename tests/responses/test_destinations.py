"""Requests go where the configuration says, and never to where a machine is told its credentials."""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_network
from typing import Any

import pytest

from otel_aiops.batch.client import Api
from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.responses import destinations
from otel_aiops.responses.destinations import forbidden, is_below
from otel_aiops.responses.http import HttpConfig, Unreachable, send
from otel_aiops.responses.notify import Notify, NotifyConfig
from otel_aiops.responses.order import Ended
from otel_aiops.responses.verify import does_not_hold
from tests.hostile import HOSTILE
from tests.responses.receiver import Receiver
from tests.responses.test_hostile import order

METADATA = (
    *("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "100.100.100.200"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "168.63.129.16"),
)


@pytest.mark.parametrize("address", METADATA)
def test_what_hands_out_credentials_is_known_however_it_is_written(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "169.253.0.1", "fd00:1::1", "8.8.8.8"]
)
def test_what_people_run_themselves_is_not(address: str) -> None:
    assert not forbidden(address)


@pytest.fixture
def loopback_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the real addresses here: loopback takes their place."""
    networks = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    monkeypatch.setattr(destinations, "NEVER", networks)


@pytest.mark.usefixtures("loopback_is_forbidden")
def test_a_name_that_leads_there_is_not_asked_and_a_number_is(receiver: Receiver) -> None:
    named = receiver.url.replace("127.0.0.1", "localhost")
    with pytest.raises(Unreachable, match=r"localhost:[0-9]+ is not asked: localhost leads to ") as why:
        send("POST", HttpConfig(url=named), body=b"x")
    assert not why.value.perhaps
    assert "is asked only where that number is configured" in str(why.value)
    with closing(Api("it", named, sleep=lambda _: None)) as api, pytest.raises(Overloaded, match="localhost"):
        api.get("/x", {})
    urls = (f"{named.replace('http', 'json')}/told",)
    found = Notify((NotifyConfig(name="it", urls=urls),)).run(order("notify", "cart"))
    assert found is not None and found.ended is Ended.FAILED
    assert not receiver.asked
    assert send("POST", HttpConfig(url=receiver.url), body=b"x").status == 200


def test_who_answers_for_a_name_later_is_looked_at_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads elsewhere when it is asked for the second time."""
    monkeypatch.setattr(destinations, "check_host", lambda *_: None)
    monkeypatch.setattr(destinations, "NEVER", (ip_network("127.0.0.0/8"), ip_network("::1/128")))
    with pytest.raises(Unreachable, match=r"leads to (127\.0\.0\.1|::1)"):
        send("POST", HttpConfig(url=receiver.url.replace("127.0.0.1", "localhost")), body=b"x")
    assert not receiver.asked


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"])
def test_numbers_that_are_written_oddly_are_names(host: str) -> None:
    try:
        socket.getaddrinfo(host, 80)
    except OSError:
        pytest.skip("this machine does not take them for addresses")
    with pytest.raises(Unreachable, match=r"leads to 169\.254\.169\.254"):
        send("GET", HttpConfig(url=f"http://{host}/", attempts=1))


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://a:1/x", True),
        ("http://a:1/x/y/z?q=..", True),
        ("http://a:1/x/", True),
        ("http://a:1/xy", False),
        ("http://a:1/", False),
        ("http://a:2/x/y", False),
        ("https://a:1/x/y", False),
        ("http://a:1@b/x/y", False),
        ("http://a:1/x/../y", False),
        ("http://a:1/x/%2e%2E/y", False),
        ("http://a:1/x/..\\y", False),
        ("http://a:1/x/y\r\nX: y", False),
        ("//b/x/y", False),
    ],
)
def test_what_is_below_an_address(url: str, good: bool) -> None:
    assert is_below(url, "http://a:1/x") is good


def test_nothing_else_is_asked(receiver: Receiver) -> None:
    config = HttpConfig(url=f"{receiver.url}/base", attempts=1)
    for url in (receiver.url, f"{receiver.url}/base/../x", "http://169.254.169.254/", f"{receiver.url}@a/base"):
        with pytest.raises(Unreachable, match="expected an address below"):
            send("GET", config, url)
    assert not receiver.asked


def redirected(receiver: Receiver, to: str) -> None:
    receiver.answers = [(307, b"")]
    receiver.headers = {"Location": to}


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    redirected(receiver, f"{receiver.url}/stolen")
    with pytest.raises(Unreachable, match="redirects are not followed"):
        send("POST", HttpConfig(url=f"{receiver.url}/a"), body=b"x")
    assert "redirects are not followed" in does_not_hold(HttpConfig(url=receiver.url), "up")
    with closing(Api("it", receiver.url, "planted")) as api, pytest.raises(BadInput, match="are not followed"):
        api.get("/a", {})
    urls = (f"{receiver.url.replace('http', 'json')}/told",)
    told: Any = Notify((NotifyConfig(name="it", urls=urls),)).run(order("notify", "cart"))
    assert told.ended is Ended.FAILED
    assert not [one for one in receiver.asked if "stolen" in one.path]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_query_is_one_parameter_whatever_it_says(receiver: Receiver, name: str) -> None:
    receiver.answers = [(200, b"{}")]
    does_not_hold(HttpConfig(url=f"{receiver.url}/prometheus", attempts=1), HOSTILE[name][:2_000])
    (asked,) = receiver.asked
    path, _, query = asked.path.partition("?")
    assert path == "/prometheus/api/v1/query" and query.startswith("query=") and not set("&#\r\n ") & set(query)
