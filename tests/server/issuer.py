"""An OpenID Connect issuer on loopback: real keys and signatures, the code flow with PKCE; it can be away."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CLIENT, SECRET = "otel-aiops", "client-secret-of-the-issuer"


class Issuer:
    """Signs for whoever `claims` says; counts what it is asked."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u1", "email": "ana@example.com", "groups": ["sre"]}
        self.asked: list[str] = []
        self.broken = False
        self.other: dict[str, Any] = {}  # said in the token of the code flow instead of what is right
        self._codes: dict[str, dict[str, str]] = {}
        self.keys: dict[str, tuple[str, Any]] = {}
        self.rotate("k1")
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._get(self)

            def do_POST(self) -> None:
                issuer._post(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rotate(self, name: str, kind: str = "RS256") -> None:
        """A new key; the ones before are gone."""
        made: Any = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[kind]()
        self.keys = {name: (kind, made)}

    def jwks(self) -> dict[str, Any]:
        algorithms: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        return {
            "keys": [
                {**algorithms[kind].to_jwk(key.public_key(), as_dict=True), "kid": name, "alg": kind, "use": "sig"}
                for name, (kind, key) in self.keys.items()
            ]
        }

    def public_pem(self) -> bytes:
        ((_, key),) = self.keys.values()
        pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def sign(self, *, kid: str | None = "", audience: str = CLIENT, age_s: float = 0.0, **more: Any) -> str:
        """A token for whom `claims` says, an hour long."""
        ((name, (kind, key)),) = self.keys.items()
        now_s = time.time() - age_s
        told = {"iss": self.url, "aud": audience, "iat": now_s, "exp": now_s + 3600, **self.claims, **more}
        headers = {} if kid is None else {"kid": kid or name}
        payload = {claim: value for claim, value in told.items() if value is not None}
        return jwt.encode(payload, key, kind, headers=headers)

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.asked.append(parts.path)
        if self.broken:
            self._answer(handler, {}, 500)
        elif parts.path == "/.well-known/openid-configuration":
            places = {"jwks_uri": "/keys", "authorization_endpoint": "/auth", "token_endpoint": "/token"}
            self._answer(handler, {"issuer": self.url, **{key: self.url + path for key, path in places.items()}})
        elif parts.path == "/keys":
            self._answer(handler, self.jwks())
        elif parts.path == "/auth":
            asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
            assert asked["client_id"] == CLIENT and asked["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(8)
            self._codes[code] = asked
            handler.send_response(302)
            back = urlencode({"code": code, "state": asked["state"]})
            handler.send_header("Location", f"{asked['redirect_uri']}?{back}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            self._answer(handler, {}, 404)

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        fields = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        self.asked.append("/token")
        asked = self._codes.pop(fields.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(fields.get("code_verifier", "").encode()).digest())
        shown = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        right = asked is not None and asked["redirect_uri"] == fields["redirect_uri"]
        if not right or handler.headers["Authorization"] != shown:
            self._answer(handler, {"error": "invalid_grant"}, 400)
        elif asked["code_challenge"].encode() != challenge.rstrip(b"="):  # type: ignore[index]
            self._answer(handler, {"error": "invalid_grant", "error_description": "PKCE"}, 400)
        else:
            told = {"nonce": asked["nonce"], **self.other}  # type: ignore[index]
            self._answer(handler, {"token_type": "Bearer", "access_token": "x", "id_token": self.sign(**told)})

    def _answer(self, handler: BaseHTTPRequestHandler, tree: Any, status: int = 200) -> None:
        body = json.dumps(tree).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
