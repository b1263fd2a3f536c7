"""The last part of the demo tells of incidents as they come, change and end, and of faults without one."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

from otel_aiops.demo import live
from otel_aiops.demo.live import story, tell

START_S = 1_767_614_400.0


@dataclass
class Service:
    """A service that has found the first fault."""

    http: int = 1
    asked: int = 0
    bodies: list[tuple[str, int]] = field(default_factory=list)

    def settle(self) -> None:
        pass

    def incidents(self) -> list[dict[str, Any]]:
        self.asked += 1
        fault = story(START_S, 1)[0]
        suspect = {
            "service": "web" if self.asked == 1 else "catalog",
            "reason": "slow [calls]",
            "evidence": [{"text": "3 ms, now 90 ms"}],
        }
        incident = {"id": "a", "detected_at": fault.start_s + 5, "title": "catalog is slow", "severity": "warning"}
        incident |= {
            "state": "resolved" if self.asked == 3 else "open",
            "summary": "Orders wait.",
            "suspects": [suspect],
        }
        old = {**incident, "id": "old", "title": "long ago", "detected_at": START_S - 100}
        return [old, incident]


def test_incidents_are_told_when_they_come_change_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    service, out, minutes = Service(), io.StringIO(), []
    monkeypatch.setattr(live, "_post", lambda _, url, body: service.bodies.append((url, len(body))))
    console = Console(file=out, width=200, highlight=False)
    told = tell(console, service, START_S, 1, minutes.append)  # type: ignore[arg-type]
    told.summary(console)
    text = out.getvalue()
    assert minutes == [0]
    assert len(service.bodies) == 12 * 2 + 4 and service.bodies[0][0] == "http://127.0.0.1:1/v1/metrics"
    assert text.count("  fault    ") == 3
    assert "incident catalog is slow (warning, open)" in text and "long ago" not in text
    assert "1. web: slow [calls]" in text and "- 3 ms, now 90 ms" in text and "Orders wait." in text
    assert "now suspected  catalog" in text and "resolved  catalog is slow" in text
    assert "5 s" in text and text.count("no incident") == 2
    assert told.spans > 1000 and told.logs > 300


def test_the_story_fits_into_its_minutes() -> None:
    faults = story(START_S, 30)
    ends = [START_S, *(fault.end_s for fault in faults)]
    assert all(end < fault.start_s for end, fault in zip(ends, faults, strict=False))
    assert ends[-1] <= START_S + 1800
