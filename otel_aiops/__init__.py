"""otel-aiops: anomaly scores and governed models for an OpenTelemetry stack, in one process."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("otel-aiops")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"
