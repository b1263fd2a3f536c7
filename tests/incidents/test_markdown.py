"""Post-mortems and sentences say what was measured, exactly, and text from outside cannot break them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from otel_aiops.incidents.incident import Channel, Entry, Evidence, Incident, Severity, State, Suspect
from otel_aiops.incidents.markdown import post_mortem
from otel_aiops.incidents.words import cause, quantity, summary, title, told
from tests.incidents.makers import at, finding


def incident() -> Incident:
    found = finding("pay", 0, users=310)
    seen = replace(
        finding("redis", 0, channel=Channel.RESOURCE, what="memory", before=1e9, after=4e9, unit="By").evidence
    )
    seen = replace(seen, traces=("0" * 31 + "1", "0" * 31 + "2"))
    return Incident(
        id="ab12",
        revision=4,
        state=State.RESOLVED,
        severity=Severity.CRITICAL,
        start_ns=at(0),
        detected_ns=at(25),
        end_ns=at(300),
        title="pay is slow",
        services=("cart", "pay", "redis", "web"),
        blast_radius=("cart", "pay", "redis", "web"),
        suspects=(
            Suspect(service="redis", score=3.2, confidence=0.84, reason="it is out of memory.", evidence=(seen,)),
            Suspect(service="pay", score=1.0, confidence=0.1, reason="slow", operation="charge"),
        ),
        findings=(found, finding("web", 5, score=0.5, text="web | is <b>slow</b>\n\n# not a title")),
        timeline=(Entry(time_ns=at(0), kind="opened", text="Opened | after pay."),),
        users=310,
        slo_burn=14.6,
        suppressed_by="silence night by ana: known",
        similar=("cd34",),
        flaps=2,
        more_findings=1_200,
    )


def test_a_post_mortem_has_all_parts() -> None:
    text = post_mortem(incident())
    for part in (
        "# Post-mortem: pay is slow",
        "## Impact",
        "## Timeline",
        "## Suspects",
        "## Findings",
        "## Follow-ups",
    ):
        assert part in text
    assert "| Detected | 2023-11-14 22:13:45 UTC (25 s after the start) |" in text
    assert "(5 min in all)" in text and "resolved, came back 2 times" in text and "14.6" in text
    assert "| redis | resource | `memory` is 4 GB instead of 1 GB | 1 GB | 4 GB | 310 | " in text
    assert f"`{'0' * 31}1` `{'0' * 31}2`" in text
    assert "probability 84%" in text and "### 2. pay, charge" in text
    assert "And 1,200 weaker ones." in text and "`cd34`" in text and "by ana" in text


def test_text_from_outside_cannot_break_it() -> None:
    text = post_mortem(incident())
    assert "web \\| is \\<b\\>slow\\</b\\> # not a title" in text
    assert "Opened \\| after pay." in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {3, 4, 8}


def test_what_is_not_known_is_said() -> None:
    bare = replace(incident(), suspects=(), end_ns=0, services=(), blast_radius=(), merged_into="x", state=State.MERGED)
    text = post_mortem(bare)
    assert "No candidate for the cause" in text and "| End | not over |" in text and "merged into `x`" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.2, "s", "1.2 s"),
        (0.08, "s", "80 ms"),
        (80, "ms", "80 ms"),
        (5_400, "s", "1.5 h"),
        (0, "s", "0 s"),
        (0.123, "1", "12.3 %"),
        (3.4e9, "By", "3.4 GB"),
        (12_345, "{requests}", "12,345 requests"),
        (0.5, "", "0.5"),
        (math.nan, "s", "nothing"),
        (math.inf, "s", "inf"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("channel", "more", "text"),
    [
        (Channel.LATENCY, {}, "`charge` takes 1.2 s instead of 80 ms (310 requests)"),
        (Channel.LATENCY, {"before": math.nan}, "`charge` takes 1.2 s (310 requests)"),
        (Channel.ERRORS, {"unit": "1", "before": 0.0, "after": 0.25}, "`charge` fails in 25 % of cases instead of 0 %"),
        (Channel.NETWORK, {"callee": "bank"}, "the way to bank takes 1.2 s instead of 80 ms"),
        (Channel.RESOURCE, {"resource": "pod-1"}, "`charge` on pod-1 is 1.2 s instead of 80 ms"),
        (Channel.SEQUENCE, {}, "`charge` takes another path"),
        (Channel.LOGS, {"text": "A new line."}, "A new line"),
        (Channel.SILENCE, {"after": math.nan}, "`charge` is silent"),
    ],
)
def test_clauses(channel: Channel, more: dict[str, object], text: str) -> None:
    seen = replace(finding("pay", 0, channel=channel).evidence, **more)  # type: ignore[arg-type]
    assert isinstance(seen, Evidence) and told(seen).startswith(text)


def test_a_summary_says_who_else() -> None:
    assert title(incident()) == "pay is slow and 3 more services"
    assert summary(incident()) == (
        "From 22:13 UTC until 22:18 UTC pay is slow: `charge` takes 1.2 s instead of 80 ms (310 requests). "
        "Likeliest cause: redis: it is out of memory. Also affected: cart, web. "
        "Suppressed by silence night by ana: known."
    )
    assert (
        cause([Suspect(service="a", score=1, confidence=1, reason="", edge="a -> b")]) == "Likeliest cause: a (a -> b)."
    )
    empty = replace(incident(), findings=(), summary="kept")
    assert summary(empty) == "kept" and title(empty) == "cart, pay, redis"
