"""The desk: what operators see of incidents and what surrounds them, and what they decide."""

from __future__ import annotations

from otel_aiops.desk.desk import Desk

__all__ = ["Desk"]
