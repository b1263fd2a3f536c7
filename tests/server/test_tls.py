"""Encryption of both transports: what is spoken, who is let in, and certificates that change while we serve."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from otel_aiops.errors import ConfigError
from otel_aiops.server import tls
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.receiver import Receiver
from otel_aiops.server.tls import Certificates, TlsConfig
from tests.server.certificates import Authority, Pair
from tests.server.sending import DEADLINE_S, Sink, channel, export, receiving, until

RSA_SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
ECDSA_SUITE = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority("ours")


@pytest.fixture(scope="module")
def others() -> Authority:
    return Authority("others")


def files(folder: Path, pair: Pair, **settings: Any) -> TlsConfig:
    cert, key = pair.write(folder)
    return TlsConfig(cert_file=cert, key_file=key, **settings)


def inline(pair: Pair, **settings: Any) -> TlsConfig:
    return TlsConfig(cert_pem=pair.cert.decode(), key_pem=pair.key.decode(), **settings)


def written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@contextlib.contextmanager
def serving(config: TlsConfig, *, grpc_too: bool = True) -> Iterator[Receiver]:
    over_grpc = GrpcConfig(endpoint="127.0.0.1:0", tls=config) if grpc_too else None
    with receiving(Sink(), grpc=over_grpc, http=HttpConfig(endpoint="127.0.0.1:0", tls=config)) as receiver:
        yield receiver


def client_context(authority: Authority, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if shown:
        context.load_cert_chain(*shown)
    return context


def subject(port: int, transport: str, context: ssl.SSLContext) -> str:
    """The name in the certificate that a server shows to a new connection."""
    context.set_alpn_protocols(["h2" if transport == "grpc" else "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == ("h2" if transport == "grpc" else "http/1.1")
        shown = encrypted.getpeercert(binary_form=True)
        assert shown is not None
        names = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value)


def post(port: int, folder: Path, authority: Authority, shown: tuple[str, str] | None = None) -> int:
    trusted = written(folder, "trusted.pem", authority.pem)
    with requests.Session() as session:
        answer = session.post(
            f"https://localhost:{port}/v1/logs",
            headers={"Content-Type": "application/x-protobuf"},
            verify=trusted,
            cert=shown,
            timeout=DEADLINE_S,
        )
    return answer.status_code


def send(port: int, authority: Authority, shown: Pair | None = None) -> bytes:
    given = {"private_key": shown.key, "certificate_chain": shown.cert} if shown else {}
    with channel(port, host="localhost", credentials=grpc.ssl_channel_credentials(authority.pem, **given)) as opened:
        return export(opened)


def grpc_refuses(port: int, authority: Authority, shown: Pair | None = None) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        send(port, authority, shown)
    return bool(caught.value.code() == grpc.StatusCode.UNAVAILABLE)


def test_encrypted(tmp_path: Path, ours: Authority, others: Authority) -> None:
    with serving(files(tmp_path, ours.issue())) as receiver:
        assert send(receiver.ports["grpc"], ours) == b""
        assert grpc_refuses(receiver.ports["grpc"], others)
        assert post(receiver.ports["http"], tmp_path, ours) == 200
        with pytest.raises(requests.exceptions.SSLError):
            post(receiver.ports["http"], tmp_path, others)


def test_certificates_in_the_configuration(tmp_path: Path, ours: Authority) -> None:
    with serving(inline(ours.issue())) as receiver:
        assert send(receiver.ports["grpc"], ours) == b""
        assert post(receiver.ports["http"], tmp_path, ours) == 200


def test_nothing_goes_unencrypted(ours: Authority) -> None:
    with serving(inline(ours.issue())) as receiver:
        with channel(receiver.ports["grpc"]) as opened, pytest.raises(grpc.RpcError):
            export(opened)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.post(f"http://127.0.0.1:{receiver.ports['http']}/v1/logs", timeout=DEADLINE_S)


def test_clients_must_show_a_certificate_of_the_right_authority(
    tmp_path: Path, ours: Authority, others: Authority
) -> None:
    clients = Authority("clients")
    good, bad = clients.issue("collector"), others.issue("stranger")
    trusted = written(tmp_path, "clients.pem", clients.pem)
    with serving(inline(ours.issue(), client_ca_file=trusted)) as receiver:
        port = receiver.ports["grpc"]
        assert send(port, ours, good) == b""
        assert grpc_refuses(port, ours, bad)
        assert grpc_refuses(port, ours)
        port = receiver.ports["http"]
        assert post(port, tmp_path, ours, good.write(tmp_path, "good")) == 200
        for shown in (bad.write(tmp_path, "bad"), None):
            with pytest.raises(requests.exceptions.ConnectionError):
                post(port, tmp_path, ours, shown)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_new_certificate_is_used_without_a_restart(tmp_path: Path, ours: Authority, transport: str) -> None:
    with serving(files(tmp_path, ours.issue("first"), reload_interval=0.01)) as receiver:
        port, trusted = receiver.ports[transport], client_context(ours)
        assert subject(port, transport, trusted) == "first"
        ours.issue("second").write(tmp_path)
        until(lambda: subject(port, transport, trusted) == "second", "the new certificate")


def test_connections_outlive_their_certificates(tmp_path: Path, ours: Authority) -> None:
    with serving(files(tmp_path, ours.issue("first"), reload_interval=0.01)) as receiver:
        credentials = grpc.ssl_channel_credentials(ours.pem)
        port = receiver.ports["grpc"]
        with channel(port, host="localhost", credentials=credentials) as opened:
            export(opened)
            states: list[Any] = []
            opened.subscribe(states.append)
            until(lambda: states == [grpc.ChannelConnectivity.READY], "the state")
            ours.issue("second").write(tmp_path)
            until(lambda: subject(port, "grpc", client_context(ours)) == "second", "the new certificate")
            export(opened)
            assert states == [grpc.ChannelConnectivity.READY]


def test_new_client_authorities_are_used_without_a_restart(
    tmp_path: Path, ours: Authority, others: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CLIENT_CA_LOOK_S", 0.01)
    trusted = written(tmp_path, "clients.pem", ours.pem)
    old, new = ours.issue("old"), others.issue("new")
    shown = new.write(tmp_path, "new")
    settings = inline(ours.issue(), client_ca_file=trusted, client_ca_file_reload=True)
    with serving(settings) as receiver:
        port = receiver.ports["grpc"]
        assert send(port, ours, old) == b""
        assert grpc_refuses(port, ours, new)
        written(tmp_path, "clients.pem", others.pem)

        def both_taken() -> bool:
            try:
                return send(port, ours, new) == b"" and post(receiver.ports["http"], tmp_path, ours, shown) == 200
            except (grpc.RpcError, requests.exceptions.ConnectionError):
                return False

        until(both_taken, "the new authority")
        assert grpc_refuses(port, ours, old)


def with_versions(lowest: ssl.TLSVersion, highest: ssl.TLSVersion, authority: Authority) -> ssl.SSLContext:
    context = client_context(authority)
    context.minimum_version, context.maximum_version = lowest, highest
    return context


def version(port: int, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        return encrypted.version()


@pytest.mark.parametrize(
    ("settings", "highest_of_client", "expected"),
    [
        ({}, ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        ({}, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ({"min_version": "1.3"}, ssl.TLSVersion.TLSv1_2, None),
        ({"min_version": "1.3"}, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ({"max_version": "1.2"}, ssl.TLSVersion.TLSv1_3, "TLSv1.2"),
    ],
)
def test_versions(
    ours: Authority, settings: dict[str, str], highest_of_client: ssl.TLSVersion, expected: str | None
) -> None:
    context = with_versions(ssl.TLSVersion.TLSv1_2, highest_of_client, ours)
    with serving(inline(ours.issue(), **settings), grpc_too=False) as receiver:
        if expected:
            assert version(receiver.ports["http"], context) == expected
        else:
            with pytest.raises(ssl.SSLError):
                version(receiver.ports["http"], context)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_old_versions_are_not_spoken(ours: Authority, transport: str) -> None:
    context = client_context(ours)
    with pytest.warns(DeprecationWarning):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with serving(inline(ours.issue())) as receiver:
        with pytest.raises(ssl.SSLError):  # what it says differs between releases of Python
            version(receiver.ports[transport], context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        assert version(receiver.ports[transport], context) == "TLSv1.2", "it was the version that was refused"


def test_cipher_suites(ours: Authority) -> None:
    context = with_versions(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, ours)
    with serving(inline(ours.issue(), cipher_suites=(RSA_SUITE, ECDSA_SUITE)), grpc_too=False) as receiver:
        port = receiver.ports["http"]
        context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        assert version(port, context) == "TLSv1.2"
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        with pytest.raises(ssl.SSLError):
            version(port, context)


def test_the_same_certificates_stay_the_same_object(tmp_path: Path, ours: Authority) -> None:
    clock = Clock()
    certificates = Certificates(files(tmp_path, ours.issue(), reload_interval=60.0), clock=clock)
    first = certificates.current()
    clock.now_s = 60.0
    assert certificates.current() is first
    ours.issue().write(tmp_path)
    assert certificates.current() is first, "files are looked at once in a reload interval"
    clock.now_s = 120.0
    assert certificates.current() is not first
    assert certificates.config.reload_interval == 60.0


def test_without_an_interval_nothing_is_read_again(tmp_path: Path, ours: Authority) -> None:
    clock = Clock()
    certificates = Certificates(files(tmp_path, ours.issue()), clock=clock)
    first = certificates.current()
    ours.issue().write(tmp_path)
    clock.now_s = 1e6
    assert certificates.current() is first


@pytest.mark.parametrize("spoiled", ["server.crt", "server.key", "clients.pem"])
def test_files_that_cannot_be_used_change_nothing_until_they_can(tmp_path: Path, ours: Authority, spoiled: str) -> None:
    clock = Clock()
    settings = files(
        tmp_path,
        ours.issue(),
        reload_interval=1.0,
        client_ca_file=written(tmp_path, "clients.pem", ours.pem),
        client_ca_file_reload=True,
    )
    certificates = Certificates(settings, path="x.tls", clock=clock)
    first = certificates.current()
    good = (tmp_path / spoiled).read_bytes()
    (tmp_path / spoiled).write_bytes(b"half")
    clock.now_s += 1
    with capture_logs() as logs:
        assert certificates.current() is first
    assert logs[0]["event"] == "TLS files changed but cannot be used, the old ones stay"
    assert logs[0]["error"].startswith("x.tls.")
    (tmp_path / spoiled).write_bytes(good)
    clock.now_s += 1
    with capture_logs() as logs:
        assert certificates.current() is not first
    assert [line["log_level"] for line in logs] == ["info"]


def test_a_pair_that_changes_in_two_steps(tmp_path: Path, ours: Authority) -> None:
    clock, second = Clock(), ours.issue("second")
    certificates = Certificates(files(tmp_path, ours.issue("first"), reload_interval=1.0), clock=clock)
    first = certificates.current()
    (tmp_path / "server.crt").write_bytes(second.cert)
    clock.now_s += 1
    with capture_logs():
        assert certificates.current() is first
    (tmp_path / "server.key").write_bytes(second.key)
    clock.now_s += 1
    assert certificates.current().cert == second.cert


def test_authorities_may_stand_among_comments_in_any_encoding(tmp_path: Path, ours: Authority) -> None:
    bundle = "# Főtanúsítvány\n".encode("iso-8859-2") + ours.pem + b"\n# and\n" + Authority().pem
    certificates = Certificates(inline(ours.issue(), client_ca_file=written(tmp_path, "ca.pem", bundle)))
    assert len(certificates.current().context.get_ca_certs()) == 2


def encrypted(pair: Pair) -> bytes:
    key = serialization.load_pem_private_key(pair.key, None)
    hidden = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.mark.parametrize("kind", ["another's key", "an encrypted key", "no key", "no certificate"])
def test_pairs_that_do_not_fit(tmp_path: Path, ours: Authority, kind: str) -> None:
    pair = ours.issue()
    made = {
        "another's key": Pair(pair.cert, ours.issue().key),
        "an encrypted key": Pair(pair.cert, encrypted(pair)),
        "no key": Pair(pair.cert, b"\n"),
        "no certificate": Pair(b"\n", pair.key),
    }[kind]
    message = "the certificate and its key cannot be used together"
    with pytest.raises(ConfigError, match=message) as caught:
        Certificates(files(tmp_path, made), path="receivers.tls")
    assert caught.value.path == "receivers.tls.cert_file"
    with pytest.raises(ConfigError, match=message) as caught:
        Certificates(inline(made))
    assert caught.value.path == "tls.cert_pem"


@pytest.mark.parametrize("content", [b"", b"no certificates\n", b"\xff\xfe"])
def test_authorities_must_be_some(tmp_path: Path, ours: Authority, content: bytes) -> None:
    settings = inline(ours.issue(), client_ca_file=written(tmp_path, "ca.pem", content))
    with pytest.raises(ConfigError, match="holds no usable PEM certificates") as caught:
        Certificates(settings)
    assert caught.value.path == "tls.client_ca_file"


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
def test_files_must_be_there(tmp_path: Path, ours: Authority, name: str) -> None:
    cert, key = ours.issue().write(tmp_path)
    given: dict[str, Any] = {"cert_file": cert, "key_file": key, name: str(tmp_path / "missing")}
    with pytest.raises(ConfigError, match=r"cannot read .*missing: No such file or directory") as caught:
        Certificates(TlsConfig(**given))
    assert caught.value.path == f"tls.{name}"


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"cert_pem": "", "cert_file": ""}, "cert_file"),
        ({"cert_file": "a"}, "cert_file"),
        ({"key_pem": ""}, "key_file"),
        ({"min_version": "1.1"}, "min_version"),
        ({"max_version": "1.4"}, "max_version"),
        ({"min_version": "1.3", "max_version": "1.2"}, "max_version"),
        ({"cipher_suites": ("RC4",)}, "cipher_suites"),
        ({"reload_interval": -1.0}, "reload_interval"),
        ({"reload_interval": float("nan")}, "reload_interval"),
        ({"client_ca_file_reload": True}, "client_ca_file_reload"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TlsConfig(**{"cert_pem": "c", "key_pem": "k", **settings})
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"min_version": "1.3"}, "tls.min_version"),
        ({"max_version": "1.2"}, "tls.max_version"),
        ({"cipher_suites": (RSA_SUITE,)}, "tls.cipher_suites"),
    ],
)
def test_what_grpc_cannot_be_told_is_refused(settings: dict[str, Any], path: str) -> None:
    given = TlsConfig(cert_pem="c", key_pem="k", **settings)
    with pytest.raises(ConfigError) as caught:
        GrpcConfig(tls=given)
    assert caught.value.path == path
    GrpcConfig(tls=TlsConfig(cert_pem="c", key_pem="k", max_version="1.3"))


def test_keys_are_not_shown(ours: Authority) -> None:
    pair = ours.issue()
    certificates = Certificates(inline(pair))
    shown = repr([certificates.config, certificates.current()])
    assert "PRIVATE KEY" not in shown
