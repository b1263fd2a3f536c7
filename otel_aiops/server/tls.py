"""TLS: certificates and client authorities as servers use them, renewed without a restart."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from otel_aiops.errors import ConfigError
from otel_aiops.server.files import FileWatch

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
CLIENT_CA_LOOK_S: Final = 1.0

# The names of the registry, which the Collector uses, to those of OpenSSL. TLS 1.3 has its own, always on.
CIPHER_SUITES: Final = {
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Encryption of a server, in the Collector's words."""

    cert_file: str = ""  # the server's certificate chain, PEM; or give it in `cert_pem`
    cert_pem: str = ""  # the certificate chain itself
    key_file: str = ""  # the key of the certificate, PEM, not encrypted; or give it in `key_pem`
    key_pem: str = field(default="", repr=False)  # the key itself
    client_ca_file: str = ""  # authorities of client certificates, PEM; when given, every client must show one
    client_ca_file_reload: bool = False  # look for a changed `client_ca_file` when a client connects
    reload_interval: float = 0.0  # read changed certificate and key files again, at most this often; 0 is never
    min_version: str = "1.2"  # the oldest TLS version that is spoken: 1.2 or 1.3
    max_version: str = ""  # the newest one; empty is the newest there is
    # TLS 1.2 suites that are allowed, as in TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; empty is the default
    cipher_suites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("cert", "key"):
            given = [name for name in (f"{kind}_file", f"{kind}_pem") if getattr(self, name)]
            if len(given) != 1:
                raise ConfigError(
                    f"{kind}_file", f"give one of {kind}_file and {kind}_pem, got {' and '.join(given) or 'none'}"
                )
        if self.min_version not in VERSIONS:
            raise ConfigError("min_version", f"must be 1.2 or 1.3, got {self.min_version!r}")
        if self.max_version not in ("", *VERSIONS):
            raise ConfigError("max_version", f"must be 1.2, 1.3 or empty, got {self.max_version!r}")
        if self.max_version and self.max_version < self.min_version:
            raise ConfigError("max_version", f"must be at least min_version {self.min_version}, got {self.max_version}")
        for name in self.cipher_suites:
            if name not in CIPHER_SUITES:
                raise ConfigError("cipher_suites", f"expected some of {', '.join(CIPHER_SUITES)}, got {name!r}")
        if not self.reload_interval >= 0:
            raise ConfigError("reload_interval", f"must be >= 0 s, got {self.reload_interval}")
        if self.client_ca_file_reload and not self.client_ca_file:
            raise ConfigError("client_ca_file_reload", "needs a client_ca_file")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Certificates that were read and fit together."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext


class Certificates:
    """The newest certificates of the files that could be used; any thread may ask.

    Raises: ConfigError under the key path `path` when the files cannot be used at the start. Later such files
    leave the old certificates in place and are logged: the two halves of a pair rarely change at once.
    """

    def __init__(self, config: TlsConfig, *, path: str = "tls", clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._path = path
        self._lock = threading.Lock()
        pair = (config.cert_file, config.key_file) if config.reload_interval else ()
        authorities = (config.client_ca_file,) if config.client_ca_file_reload else ()
        self._pair = FileWatch(pair, interval_s=config.reload_interval, clock=clock)
        self._authorities = FileWatch(authorities, interval_s=CLIENT_CA_LOOK_S, clock=clock)
        self._loaded = self._build(*self._read_pair(), self._read_authorities())

    @property
    def config(self) -> TlsConfig:
        """What they were made from."""
        return self._config

    def current(self) -> Loaded:
        """The certificates for the next connection; the same object as before when nothing changed."""
        pair_changed, authorities_changed = self._pair.changed(), self._authorities.changed()
        if pair_changed or authorities_changed:
            with self._lock:
                self._renew(pair_changed, authorities_changed)
        return self._loaded

    def _renew(self, pair_changed: bool, authorities_changed: bool) -> None:
        old = self._loaded
        try:
            pair = self._read_pair() if pair_changed else (old.cert, old.key)
            authorities = self._read_authorities() if authorities_changed else old.client_ca
            self._loaded = self._build(*pair, authorities)
        except ConfigError as error:
            if pair_changed:
                self._pair.again()
            if authorities_changed:
                self._authorities.again()
            _log.warning("TLS files changed but cannot be used, the old ones stay", error=str(error))
        else:
            _log.info("TLS files were read again", path=self._path)

    def _read_pair(self) -> tuple[bytes, bytes]:
        config = self._config
        cert = config.cert_pem.encode() or self._read("cert_file", config.cert_file)
        return cert, config.key_pem.encode() or self._read("key_file", config.key_file)

    def _read_authorities(self) -> bytes | None:
        return self._read("client_ca_file", self._config.client_ca_file) if self._config.client_ca_file else None

    def _read(self, key: str, file: str) -> bytes:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self._path}.{key}", f"cannot read {file}: {error.strerror}") from error

    def _build(self, cert: bytes, key: bytes, client_ca: bytes | None) -> Loaded:
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[config.min_version]
        context.maximum_version = VERSIONS.get(config.max_version, ssl.TLSVersion.MAXIMUM_SUPPORTED)
        context.set_alpn_protocols(["http/1.1"])
        if config.cipher_suites:
            context.set_ciphers(":".join(CIPHER_SUITES[name] for name in config.cipher_suites))
        try:
            with _as_file(cert) as cert_path, _as_file(key) as key_path:
                context.load_cert_chain(cert_path, key_path, password="")  # never ask at the terminal
        except (ssl.SSLError, ValueError) as error:
            message = f"the certificate and its key cannot be used together: {error}"
            raise ConfigError(f"{self._path}.{'cert_file' if config.cert_file else 'cert_pem'}", message) from error
        if client_ca is not None:
            try:
                with _as_file(client_ca) as path:  # a file may hold comments in any encoding
                    context.load_verify_locations(path)
            except ssl.SSLError as error:
                message = f"holds no usable PEM certificates: {error}"
                raise ConfigError(f"{self._path}.client_ca_file", message) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return Loaded(cert, key, client_ca, context)


class _NewestContext(ssl.SSLContext):
    """A context that begins every connection with the newest certificates.

    The whole context of a connection is new, so that authorities and remembered sessions change with the certificate.
    """

    certificates: Certificates

    def wrap_bio(self, *args: Any, **keywords: Any) -> ssl.SSLObject:
        return self.certificates.current().context.wrap_bio(*args, **keywords)


def asyncio_context(certificates: Certificates) -> ssl.SSLContext:
    """For asyncio servers, uvicorn among them: follows the certificates from connection to connection."""
    context = _NewestContext(ssl.PROTOCOL_TLS_SERVER)
    context.certificates = certificates
    return context


def grpc_credentials(certificates: Certificates) -> Any:
    """grpc.ServerCredentials that follow the certificates from connection to connection.

    gRPC speaks TLS 1.2 and 1.3 with its own suites; see `check_for_grpc`.
    """
    import grpc

    used = certificates.current()

    def configuration(loaded: Loaded) -> Any:
        return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.cert)], loaded.client_ca)

    def newer() -> Any:
        nonlocal used
        loaded = certificates.current()
        if loaded is used:
            return None
        used = loaded
        return configuration(loaded)

    return grpc.dynamic_ssl_server_credentials(configuration(used), newer, used.client_ca is not None)


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names in a verified certificate as Python reads it: its common name, then DNS names, addresses and URIs.

    >>> names_of({"subject": ((("commonName", "ops"),),), "subjectAltName": (("DNS", "ops.example"),)}), names_of(None)
    (('ops', 'ops.example'), ())
    """
    known = certificate or {}
    subject = [value for part in known.get("subject", ()) for key, value in part if key == "commonName"]
    return (*subject, *(value for _, value in known.get("subjectAltName", ())))


def check_for_grpc(config: TlsConfig) -> None:
    """Refuse what gRPC's own TLS cannot be told, rather than to ignore it. Raises ConfigError."""
    if config.min_version != "1.2":
        raise ConfigError("min_version", f"gRPC always speaks TLS 1.2 and 1.3: must be 1.2, got {config.min_version}")
    if config.max_version not in ("", "1.3"):
        raise ConfigError("max_version", f"gRPC always speaks TLS 1.2 and 1.3: must be 1.3, got {config.max_version}")
    if config.cipher_suites:
        raise ConfigError("cipher_suites", "cannot be set for gRPC, which has its own suites")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL can read bytes that we hold; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:  # pragma: no cover
        with tempfile.NamedTemporaryFile() as named:
            named.write(content)
            named.flush()
            yield named.name
