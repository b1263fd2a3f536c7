"""The errors of otel-aiops, split by what the caller should do about them.

AiopsError
├── ConfigError      the operator must change a setting; carries the key path
├── BadInput         the sender must not send this again (OTLP: INVALID_ARGUMENT, HTTP 400)
│   ├── TooLarge     the body is over the size limit (OTLP: RESOURCE_EXHAUSTED, HTTP 413)
│   └── WrongType    the body is of a kind that is not taken there (HTTP 415)
├── Unauthorized     the sender must present valid credentials (OTLP: UNAUTHENTICATED, HTTP 401)
├── Forbidden        the sender is known, and may not (HTTP 403)
├── Overloaded       the sender should retry later (OTLP: UNAVAILABLE + RetryInfo, HTTP 503 + Retry-After)
├── StorageError     the disk refused; new data is refused as retryable until it recovers
└── StateError       a snapshot does not fit this version and is not loaded
"""

from __future__ import annotations


class AiopsError(Exception):
    """Root of every error that otel-aiops raises on purpose."""

    items: int = 0  # points, spans or records of the body that was refused, where the raiser counted them


class ConfigError(AiopsError, ValueError):
    """A setting is wrong; `path` is its key path, as in ``receivers.otlp.protocols.grpc.endpoint``."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class BadInput(AiopsError):
    """What came cannot be read, and sending it again will not help."""


class TooLarge(BadInput):
    """A body is larger than the limit, before or after decompression."""


class WrongType(BadInput):
    """A body is of another content type or encoding than is taken."""


class Unauthorized(AiopsError):
    """Credentials are missing or wrong."""


class Forbidden(AiopsError):
    """Who asks is known, and may not."""


class Overloaded(AiopsError):
    """The service cannot take more now; retry after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(Overloaded):
    """The disk is full or failing; nothing new is acknowledged until it recovers."""


class StateError(AiopsError):
    """Saved state does not fit: expected and found differ."""
