"""A simulated shop: days of metrics minute by minute, and live spans, logs and metrics of the same requests."""

from otel_aiops.shop.day import FAULTS, PODS, SERVICES, STEP_S, Fault, Shop
from otel_aiops.shop.faults import Kind, LiveFault
from otel_aiops.shop.live import LIVE_STEP_S, LiveShop
from otel_aiops.shop.story import draw, draw_plan, label

__all__ = [
    "FAULTS",
    "LIVE_STEP_S",
    "PODS",
    "SERVICES",
    "STEP_S",
    "Fault",
    "Kind",
    "LiveFault",
    "LiveShop",
    "Shop",
    "draw",
    "draw_plan",
    "label",
]
