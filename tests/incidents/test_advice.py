"""Advice says what would do, with numbers, and only with enough history."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.incidents.advice import MIB, AdviceConfig, Use, advise
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64

HOURS_NS = np.arange(14 * 24 + 1, dtype=np.int64) * 3_600_000_000_000


def use(name: str, value: F64 | float, service: str = "cart", **attributes: str) -> Use:
    resource = (("k8s.container.name", service), ("k8s.pod.name", f"{service}-1"), ("service.name", service))
    labels = Labels(name, resource=resource, attributes=tuple(attributes.items()))
    return Use(labels, HOURS_NS, np.broadcast_to(np.asarray(value, np.float64), HOURS_NS.shape).copy())


def test_slack_is_said_with_what_would_do() -> None:
    used = np.full(len(HOURS_NS), 0.3)
    used[7] = 0.4
    (told,) = advise([use("container.cpu.usage", used), use("k8s.container.cpu_request", 2.0)], AdviceConfig())
    assert (told.kind, told.resource, told.now, told.highest) == ("slack", "cpu", 2.0, 0.4)
    assert told.would_do == pytest.approx(0.5)
    assert told.text.startswith("cart asks for 2 cores and has used at most 0.4 cores in 14.0 d (p99 0.3 cores)")


def test_shortage_comes_first() -> None:
    series = [
        use("container.cpu.usage", 0.1),
        use("k8s.container.cpu_request", 1.0),
        use("container.memory.working_set", 500 * MIB, "payment"),
        use("k8s.container.memory_limit", 512 * MIB, "payment"),
    ]
    first, second = advise(series, AdviceConfig())
    assert (first.kind, first.service, second.kind) == ("shortage", "payment", "slack")
    assert first.would_do == 752 * MIB and "limit of 512 MiB" in first.text


def test_nothing_is_said_of_what_fits_is_too_short_or_cannot_be_compared() -> None:
    cpu, request = use("container.cpu.usage", 0.9), use("k8s.container.cpu_request", 1.0)
    assert advise([cpu, request], AdviceConfig()) == ()
    idle = use("container.cpu.usage", 0.1)
    assert advise([Use(idle.labels, HOURS_NS[:24], idle.value[:24]), request], AdviceConfig()) == ()
    assert advise([idle, use("k8s.container.cpu_request", 1.0, "other")], AdviceConfig()) == ()
    empty = Use(idle.labels, HOURS_NS, np.full(len(HOURS_NS), np.nan))
    assert advise([empty, request, use("http.requests", 1.0)], AdviceConfig()) == ()
    assert advise([], AdviceConfig()) == ()


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput):
        Use(Labels("x"), HOURS_NS, np.zeros(1))
    for settings in ({"history": 0.0}, {"slack": 0.0}, {"room": 0.5}):
        with pytest.raises(ConfigError):
            AdviceConfig(**settings)
