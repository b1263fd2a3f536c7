"""One export, over gRPC and over HTTP, against destinations that answer, refuse, hang, hide behind TLS or are away."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from hypothesis import example, given
from hypothesis import strategies as st

from otel_aiops import __version__
from otel_aiops.errors import BadInput, ConfigError, Overloaded, Unauthorized
from otel_aiops.server.client import Answer, Client, ClientTlsConfig, GrpcClient, HttpClient, retry_after_s
from tests.server.certificates import Authority, Pair
from tests.server.destinations import (
    LATER,
    NEVER,
    Destination,
    Reply,
    over_grpc,
    over_http,
    rejected,
    tls_context,
    wait,
)
from tests.servers import free_port

INSECURE = ClientTlsConfig(insecure=True)
CODES = {code.name: code for code in grpc.StatusCode}
BODY = b"\x0a\x00" * 500


@contextmanager
def client_of(endpoint: str, *, protocol: str = "", **settings: Any) -> Iterator[Client]:
    kind = HttpClient if (protocol or endpoint[:4]) == "http" else GrpcClient
    defaults: dict[str, Any] = {"tls": INSECURE, "headers": {}, "compression": "none", "timeout_s": 5.0}
    found: Client = kind(endpoint, **{**defaults, **settings})
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(params=[over_grpc, over_http], ids=["grpc", "http"])
def destination(request: pytest.FixtureRequest) -> Iterator[Destination]:
    with request.param() as found:
        yield found


def failure(destination: Destination, reply: Reply, **settings: Any) -> Exception:
    """What one export ends in."""
    destination.replies = [reply]
    with (
        client_of(destination.endpoint, **settings) as client,
        pytest.raises((BadInput, Overloaded, Unauthorized)) as caught,
    ):
        client.export(BODY)
    return caught.value


class TestSending:
    @pytest.mark.parametrize("compression", ["gzip", "none"])
    @pytest.mark.parametrize("body", [b"", b"\x0a\x00", BODY * 1000], ids=["empty", "small", "large"])
    def test_a_body_arrives_as_it_is(self, destination: Destination, compression: str, body: bytes) -> None:
        with client_of(destination.endpoint, compression=compression) as client:
            assert client.export(body) == Answer()
        assert destination.bodies == [body]

    def test_headers_come_with_every_request(self, destination: Destination) -> None:
        with client_of(destination.endpoint, headers={"X-Tenant": "a b", "authorization": "Bearer t"}) as client:
            client.export(BODY)
            client.export(BODY)
        assert [(found["x-tenant"], found["authorization"]) for found in destination.headers] == [
            ("a b", "Bearer t")
        ] * 2
        assert destination.headers[0]["user-agent"].startswith(f"otel-aiops/{__version__}")

    def test_http_says_what_it_sends(self) -> None:
        with over_http() as destination:
            for compression in ("none", "gzip"):
                with client_of(destination.endpoint + "/", compression=compression) as client:
                    client.export(BODY)
        plain, packed = destination.headers
        assert plain["path"] == packed["path"] == "/v1/metrics"
        assert plain["content-type"] == packed["content-type"] == "application/x-protobuf"
        assert "content-encoding" not in plain and packed["content-encoding"] == "gzip"
        assert destination.sizes[0] == len(BODY) > 10 * destination.sizes[1]

    def test_http_keeps_the_path_of_its_endpoint(self) -> None:
        with (
            over_http(path="/api/v1/otlp/v1/metrics") as destination,
            client_of(f"{destination.endpoint}/api/v1/otlp") as client,
        ):
            assert client.export(BODY) == Answer()

    @pytest.mark.parametrize("endpoint", ["{}", "http://{}", "http://{}/"])
    def test_grpc_understands_urls(self, endpoint: str) -> None:
        with over_grpc() as destination:
            tls = INSECURE if endpoint == "{}" else ClientTlsConfig()
            with client_of(endpoint.format(destination.endpoint), protocol="grpc", tls=tls) as client:
                assert client.export(BODY) == Answer()

    def test_a_netrc_file_does_not_replace_our_headers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login somebody password else\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with over_http() as destination:
            with client_of(destination.endpoint, headers={"Authorization": "Bearer t"}) as client:
                client.export(BODY)
            with client_of(destination.endpoint) as client:
                client.export(BODY)
        assert [found.get("authorization") for found in destination.headers] == ["Bearer t", None]


class TestAnswers:
    def test_of_a_partial_success_are_read(self, destination: Destination) -> None:
        destination.replies = [rejected(3, "too old"), rejected(0, "a warning"), rejected(-5, "nonsense")]
        with client_of(destination.endpoint) as client:
            assert client.export(BODY) == Answer(3, "too old")
            assert client.export(BODY) == Answer(0, "a warning")
            assert client.export(BODY) == Answer(0, "nonsense")

    @pytest.mark.parametrize("content", [b"\x0a\xff", b"<html>Sign in</html>", b'{"partialSuccess":{}}', b"\0"])
    def test_that_cannot_be_read_are_successes(self, destination: Destination, content: bytes) -> None:
        destination.replies = [Reply(content=content, headers=(("Content-Type", "text/html"),))]
        with client_of(destination.endpoint) as client:
            assert client.export(BODY) == Answer()

    def test_may_be_compressed(self) -> None:
        plain = rejected(2, "x").content
        with over_http() as destination, client_of(destination.endpoint) as client:
            for coding, content in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
                destination.replies = [Reply(content=content, headers=(("Content-Encoding", coding),))]
                assert client.export(BODY) == Answer(2, "x")
            destination.replies = [Reply(content=b"no gzip at all", headers=(("Content-Encoding", "gzip"),))]
            assert client.export(BODY) == Answer()

    def test_are_read_up_to_a_limit(self) -> None:
        bomb = gzip.compress(b"\x0a" + bytes(64 << 20), 1)
        with over_http() as destination, client_of(destination.endpoint) as client:
            destination.replies = [Reply(content=bomb, headers=(("Content-Encoding", "gzip"),))]
            assert client.export(BODY) == Answer()
            assert client.export(BODY) == Answer()

    @pytest.mark.parametrize("status", [200, 202, 204, 299])
    def test_of_http_are_successes_from_200_to_299(self, status: int) -> None:
        with over_http() as destination, client_of(destination.endpoint) as client:
            destination.replies = [Reply(status=status)]
            assert client.export(BODY) == Answer()


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "statuses"),
        [
            (Overloaded, [429, 502, 503, 504]),
            (Unauthorized, [401, 403]),
            (BadInput, [301, 302, 307, 400, 404, 405, 411, 413, 415, 418, 500, 501]),
        ],
        ids=["overloaded", "unauthorized", "bad"],
    )
    def test_of_http(self, error: type[Exception], statuses: list[int]) -> None:
        with over_http() as destination:
            for status in statuses:
                found = failure(destination, Reply(status=status, headers=(("Location", "/elsewhere"),)))
                assert type(found) is error and str(found).startswith(f"HTTP {status} ")
                assert getattr(found, "retry_after_s", 0) == 0
        assert len(destination.bodies) == len(statuses), "no redirect is followed"

    @pytest.mark.parametrize(
        ("error", "names"),
        [
            (Overloaded, "CANCELLED DEADLINE_EXCEEDED ABORTED OUT_OF_RANGE UNAVAILABLE DATA_LOSS"),
            (Unauthorized, "UNAUTHENTICATED PERMISSION_DENIED"),
            (
                BadInput,
                "UNKNOWN INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS RESOURCE_EXHAUSTED FAILED_PRECONDITION"
                " UNIMPLEMENTED INTERNAL",
            ),
        ],
        ids=["overloaded", "unauthorized", "bad"],
    )
    def test_of_grpc(self, error: type[Exception], names: str) -> None:
        with over_grpc() as destination:
            for name in names.split():
                found = failure(destination, Reply(CODES[name]))
                assert type(found) is error and str(found) == f"{name}: as told"
                assert getattr(found, "retry_after_s", 0) == 0

    @pytest.mark.parametrize("name", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
    def test_of_grpc_with_retry_info_are_for_now(self, name: str) -> None:
        with over_grpc() as destination:
            found = failure(destination, Reply(CODES[name], wait_s=12.25))
        assert isinstance(found, Overloaded) and found.retry_after_s == 12.25

    def test_of_grpc_with_details_that_cannot_be_read_are_told_by_their_code(self) -> None:
        nothing = Status(message="no details").SerializeToString()
        with over_grpc() as destination:
            for content in (b"\x1a\xff", nothing):
                found = failure(destination, Reply(CODES["UNAVAILABLE"], content=content))
                assert isinstance(found, Overloaded) and found.retry_after_s == 0
                assert type(failure(destination, Reply(CODES["RESOURCE_EXHAUSTED"], content=content))) is BadInput

    def test_say_what_the_destination_said(self) -> None:
        said = Status(message="no such tenant").SerializeToString()
        with over_http() as destination:
            assert str(failure(destination, Reply(status=400, content=said))) == "HTTP 400 Bad Request: no such tenant"
            assert str(failure(destination, Reply(status=400, content=b"<p>no"))) == "HTTP 400 Bad Request"

    def test_of_http_tell_when_to_come_back(self) -> None:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
        with over_http() as destination:
            for value, least, most in (("7", 7, 7), (later, 80, 90), ("soon", 0, 0)):
                found = failure(destination, Reply(status=503, headers=(("Retry-After", value),)))
                assert isinstance(found, Overloaded) and least <= found.retry_after_s <= most

    def test_when_it_hangs(self, destination: Destination) -> None:
        destination.gate.clear()
        began = time.monotonic()
        found = failure(destination, Reply(), timeout_s=0.2)
        assert isinstance(found, Overloaded) and found.retry_after_s == 0
        assert 0.2 <= time.monotonic() - began < 5

    @pytest.mark.parametrize("scheme", ["", "http://"])
    def test_when_nobody_is_there(self, scheme: str) -> None:
        with client_of(f"{scheme}127.0.0.1:{free_port()}") as client, pytest.raises(Overloaded) as caught:
            client.export(BODY)
        assert caught.value.retry_after_s == 0, "nobody asked for a wait"

    @pytest.mark.parametrize("scheme", ["", "http://"])
    def test_when_somebody_else_is_there(self, scheme: str) -> None:
        """A port that closes every connection."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(20)
            with client_of(f"{scheme}127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3) as client:

                def close() -> None:
                    listening.accept()[0].close()

                closing = threading.Thread(target=close)
                closing.start()
                with pytest.raises(Overloaded):
                    client.export(BODY)
                closing.join()

    def test_of_an_answer_that_breaks_off(self) -> None:
        with over_http() as destination:
            half = Reply(headers=(("Content-Length", "500"), ("Connection", "close")), content=b"\x0a")
            found = failure(destination, half)
        assert isinstance(found, Overloaded), "nobody knows what became of the request"

    def test_of_an_address_that_is_none(self) -> None:
        with client_of("http://[::1") as client, pytest.raises(BadInput, match="InvalidURL"):
            client.export(BODY)

    def test_after_it_was_closed(self, destination: Destination) -> None:
        with client_of(destination.endpoint) as client:
            client.close()
            client.close()
            with pytest.raises(Overloaded) as caught:
                client.export(BODY)
        assert not destination.bodies and caught.value.retry_after_s == 0

    def test_are_over_when_the_destination_is_back(self, destination: Destination) -> None:
        destination.replies = [LATER, NEVER, wait(1)]
        with client_of(destination.endpoint) as client:
            for error in (Overloaded, BadInput, Overloaded):
                with pytest.raises(error):
                    client.export(BODY)
            assert client.export(BODY) == Answer()


class TestRetryAfter:
    NOW = datetime(2026, 1, 1, tzinfo=UTC)

    def test_is_seconds_or_a_date(self) -> None:
        date = self.NOW + timedelta(seconds=30)
        assert retry_after_s("30", now=self.NOW) == retry_after_s(" 30 ", now=self.NOW) == 30
        assert retry_after_s(format_datetime(date, usegmt=True), now=self.NOW) == 30
        assert retry_after_s("Thu, 01 Jan 2026 00:00:30", now=self.NOW) == 30, "without a zone it is UTC"
        assert retry_after_s(format_datetime(self.NOW - timedelta(seconds=30), usegmt=True), now=self.NOW) == 0
        assert retry_after_s(None, now=self.NOW) == retry_after_s("", now=self.NOW) == 0

    @given(st.one_of(st.text(max_size=30), st.from_regex(r"\A\w{3}, \d+ Jan \d+ \d+:\d+:\d+ ([+-]\d+|GMT)\Z")))
    @example("Mon, 01 Jan 99999999999 00:00:00 GMT")
    @example("Thu, 01 Jan 1970 99999999999999999999:00:00 GMT")
    @example("-5")
    @example("9" * 400)
    def test_of_any_text_is_no_error(self, value: str) -> None:
        assert retry_after_s(value, now=self.NOW) >= 0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue()


@contextmanager
def secured(protocol: str, authority: Authority, pair: Pair, folder: Path, *, mutual: bool) -> Iterator[Destination]:
    if protocol == "http":
        with over_http(tls=tls_context(pair, folder, client_ca=authority.pem if mutual else None)) as found:
            yield found
    else:
        credentials = grpc.ssl_server_credentials(
            [(pair.key, pair.cert)], authority.pem if mutual else None, require_client_auth=mutual
        )
        with over_grpc(credentials=credentials) as found:
            yield found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
class TestTls:
    def trusting(self, folder: Path, authority: Authority, **more: Any) -> ClientTlsConfig:
        ca_file = folder / "ca.pem"
        ca_file.write_bytes(authority.pem)
        return ClientTlsConfig(ca_file=str(ca_file), **more)

    def test_trusts_the_authority_it_was_given(
        self, protocol: str, authority: Authority, pair: Pair, tmp_path: Path
    ) -> None:
        with (
            secured(protocol, authority, pair, tmp_path, mutual=False) as destination,
            client_of(destination.endpoint, tls=self.trusting(tmp_path, authority)) as client,
        ):
            assert client.export(BODY) == Answer()
        assert destination.bodies == [BODY]

    def test_trusts_no_other(self, protocol: str, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        with secured(protocol, authority, pair, tmp_path, mutual=False) as destination:
            for tls in (self.trusting(tmp_path, Authority("stranger")), ClientTlsConfig()):
                with client_of(destination.endpoint, tls=tls, timeout_s=1.0) as client, pytest.raises(Overloaded):
                    client.export(BODY)
        assert not destination.bodies

    def test_shows_its_certificate(self, protocol: str, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        cert_file, key_file = authority.issue("us").write(tmp_path, "client")
        tls = self.trusting(tmp_path, authority, cert_file=cert_file, key_file=key_file)
        with secured(protocol, authority, pair, tmp_path, mutual=True) as destination:
            with client_of(destination.endpoint, tls=tls) as client:
                assert client.export(BODY) == Answer()
            with (
                client_of(destination.endpoint, tls=self.trusting(tmp_path, authority), timeout_s=1.0) as client,
                pytest.raises(Overloaded),
            ):
                client.export(BODY)
        assert destination.bodies == [BODY]

    def test_files_that_go_away_are_waited_for(
        self, protocol: str, authority: Authority, pair: Pair, tmp_path: Path
    ) -> None:
        tls = self.trusting(tmp_path, authority)
        with (
            secured(protocol, authority, pair, tmp_path, mutual=False) as destination,
            client_of(destination.endpoint, tls=tls) as client,
        ):
            if protocol == "http":  # gRPC has read them once and for all
                Path(str(tls.ca_file)).rename(tmp_path / "away")
                with pytest.raises(Overloaded, match="CA certificate"):
                    client.export(BODY)
                (tmp_path / "away").rename(str(tls.ca_file))
            assert client.export(BODY) == Answer()

    @pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
    def test_files_that_cannot_be_read_are_named(self, protocol: str, key: str, tmp_path: Path) -> None:
        cert_file, key_file = Authority().issue().write(tmp_path)
        files = {"ca_file": cert_file, "cert_file": cert_file, "key_file": key_file, key: str(tmp_path / "none.pem")}
        endpoint = "https://127.0.0.1:1" if protocol == "http" else "127.0.0.1:1"
        with (
            pytest.raises(ConfigError, match=rf"tls\.{key}: cannot read .*none\.pem: No such file") as caught,
            client_of(endpoint, tls=ClientTlsConfig(**files)),
        ):
            pass
        assert caught.value.path == f"tls.{key}"


def test_https_wins_over_insecure(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    tls = ClientTlsConfig(ca_file=str(tmp_path / "ca.pem"), insecure=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with (
        secured("grpc", authority, pair, tmp_path, mutual=False) as destination,
        client_of(f"https://{destination.endpoint}", protocol="grpc", tls=tls) as client,
    ):
        assert client.export(BODY) == Answer()


@pytest.mark.parametrize("files", [{"cert_file": "x"}, {"key_file": "x"}])
def test_a_certificate_needs_its_key(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cert_file and key_file together"):
        ClientTlsConfig(**files)
