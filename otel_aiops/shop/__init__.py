"""A simulated shop: days of metrics minute by minute, and live spans, logs and metrics of the same requests."""

from otel_aiops.shop.day import FAULTS, PODS, SERVICES, STEP_S, Fault, Shop

__all__ = ["FAULTS", "PODS", "SERVICES", "STEP_S", "Fault", "Shop"]
