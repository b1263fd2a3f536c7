"""Who may have caused an incident, from all kinds of evidence."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.incidents.incident import Channel, Evidence, Suspect
from otel_aiops.incidents.look import Look, total
from otel_aiops.incidents.rank import BEST, DEPLOYED, MOST_SUSPECTS, Changed, Measured, confidence, rank

CALLS = {"web": frozenset({"pay"}), "pay": frozenset({"bank"})}


def told(service: str, strength: float, channel: Channel = Channel.ERRORS, **more: str) -> Evidence:
    text = f"{service} {channel}"
    return Evidence(
        channel=channel, service=service, what="op", before=0, after=1, strength=strength, text=text, **more
    )


def seen(*evidence: Evidence) -> Look:
    """What spans show."""
    strengths: dict[str, dict[Channel, float]] = {}
    by: dict[str, list[Evidence]] = {}
    for one in evidence:
        of = strengths.setdefault(one.service, {})
        of[one.channel] = max(of.get(one.channel, 0), one.strength)
        by.setdefault(one.service, []).append(one)
    return Look(strengths, by, CALLS, frozenset({"web", "pay", "bank"}))


def names(suspects: tuple[Suspect, ...]) -> list[str]:
    return [one.service for one in suspects]


class TestSpans:
    def test_the_strangest_is_first_and_equal_ones_are_by_name(self) -> None:
        assert names(rank(seen(told("web", 5), told("pay", 50), told("bank", 5)), Measured())) == ["pay", "bank", "web"]

    def test_nothing_strange_enough_means_nobody(self) -> None:
        assert rank(Look(), Measured()) == ()
        assert rank(seen(told("pay", 2.9)), Measured()) == ()
        assert names(rank(seen(told("pay", 5)), Measured())) == ["pay"]

    def test_channels_add_up(self) -> None:
        found = rank(seen(told("web", 12), told("pay", 8), told("pay", 8, Channel.SEQUENCE)), Measured())
        assert names(found) == ["pay", "web"]
        assert found[0].score == pytest.approx(total({Channel.ERRORS: 8.0, Channel.SEQUENCE: 8.0}))

    def test_only_those_that_are_asked_for(self) -> None:
        both = seen(told("web", 50), told("pay", 40))
        assert names(rank(both, Measured(), among=lambda service: service != "web")) == ["pay"]
        assert rank(both, Measured(), among=lambda service: False) == ()

    def test_at_most_so_many_with_the_best_evidence_of_each(self) -> None:
        many = seen(*(told(f"s{k:02}", 10 + k) for k in range(30)), *(told("s29", k) for k in range(10)))
        found = rank(many, Measured())
        assert names(found) == [f"s{k}" for k in range(29, 29 - MOST_SUSPECTS, -1)]
        strengths = [one.strength for one in found[0].evidence]
        assert strengths == sorted(strengths, reverse=True) and len(strengths) == BEST

    def test_a_suspect_says_why_and_where(self) -> None:
        call = told("pay", 30, Channel.NETWORK, caller="web", callee="pay")
        (found,) = rank(seen(call, told("pay", 9)), Measured())
        assert found.edge == "web -> pay" and found.operation == "op"
        assert found.reason == "pay network; pay errors" and found.deployment == found.resource == ""


class TestDeployed:
    CHANGE = Changed("pay", "pay was changed from 1.0 to 1.1", 5)

    def test_who_has_just_been_changed_is_suspected_more(self) -> None:
        both = seen(told("web", 12), told("pay", 10))
        assert names(rank(both, Measured())) == ["web", "pay"]
        found = rank(both, Measured(), [self.CHANGE])
        assert names(found) == ["pay", "web"]
        assert found[0].score == pytest.approx(DEPLOYED * total({Channel.ERRORS: 10.0}))
        assert found[0].deployment == self.CHANGE.text and found[0].reason.endswith(self.CHANGE.text)
        assert found[1].deployment == ""

    def test_a_change_alone_makes_nobody_suspect(self) -> None:
        assert names(rank(seen(told("web", 12)), Measured(), [self.CHANGE])) == ["web"]


class TestSeries:
    def test_resources_of_a_service_count_beside_its_spans(self) -> None:
        both = seen(told("web", 12), told("pay", 10))
        cpu = told("pay", 6, Channel.RESOURCE, resource="pay-1")
        found = rank(both, Measured(evidence=[cpu]))
        assert names(found) == ["pay", "web"] and found[0].resource == "pay-1" and cpu in found[0].evidence

    def test_measured_latency_of_a_service_with_spans_does_not_count(self) -> None:
        slow = [told("web", 90, Channel.LATENCY), told("web", 90, Channel.ERRORS)]
        found = rank(seen(told("web", 5), told("pay", 10)), Measured(evidence=slow))
        assert names(found) == ["pay", "web"]
        assert found[1].score == pytest.approx(total({Channel.ERRORS: 5.0}))

    def test_but_of_one_without_spans_it_does(self) -> None:
        slow = told("cache", 9, Channel.LATENCY)
        found = rank(seen(told("pay", 5)), Measured(evidence=[slow]))
        assert names(found) == ["cache", "pay"] and found[0].score == pytest.approx(9)

    def test_the_operation_is_not_the_name_of_a_resource(self) -> None:
        (found,) = rank(Look(), Measured(evidence=[told("pay", 9, Channel.RESOURCE)]))
        assert found.operation == "" and found.reason == "pay resource"

    def test_without_spans_the_calls_between_services_decide(self) -> None:
        slow = [told("web", 10, Channel.LATENCY), told("pay", 9, Channel.LATENCY), told("far", 50, Channel.LATENCY)]
        calls = {"web": ["pay"], "pay": ["bank"], "bank": [], "far": []}
        found = rank(Look(), Measured(evidence=slow, calls=calls), symptom="web")
        assert names(found)[0] == "pay" and "far" not in names(found), "what the symptom reaches, and explains it"
        assert names(rank(Look(), Measured(evidence=slow))) == ["far", "web", "pay"]

    def test_with_spans_they_do_not(self) -> None:
        measured = Measured(evidence=[told("job", 9, Channel.RESOURCE)], calls={"job": ["pay"], "pay": []})
        assert names(rank(seen(told("pay", 5)), measured, symptom="pay")) == ["job", "pay"]

    def test_a_strange_resource_that_hurts_nobody_is_behind_who_is_hurt(self) -> None:
        """Collecting garbage took ten times as long in a service whose requests were as fast as ever."""
        garbage = Measured(evidence=[told("web", 30, Channel.RESOURCE)])
        found = rank(seen(told("pay", 20)), garbage)
        assert names(found) == ["pay", "web"] and found[1].score == pytest.approx(found[0].score / 2)
        assert names(rank(seen(told("pay", 20), told("web", 4)), garbage)) == ["web", "pay"], "so are its requests"
        assert names(rank(Look(senders=frozenset({"web"})), garbage)) == ["web"], "nobody else is strange"

    def test_the_strongest_of_a_channel_counts_once(self) -> None:
        several = [told("pay", strength, Channel.RESOURCE) for strength in (4, 9, 5)]
        (found,) = rank(Look(), Measured(evidence=several[:2], network=several[2:]))
        assert found.score == pytest.approx(9) and len(found.evidence) == 1

    def test_one_without_text_gives_no_reason(self) -> None:
        bare = Evidence(channel=Channel.SILENCE, service="pay", what="", before=np.nan, after=np.nan, strength=9)
        (found,) = rank(Look(), Measured(evidence=[bare]))
        assert found.reason == "" and found.edge == ""


class TestConfidence:
    def test_it_grows_with_the_score_and_with_its_share(self) -> None:
        assert 0 < confidence(10, 40) < confidence(20, 40) < confidence(40, 40) < 1
        assert confidence(10, 10) < confidence(50, 50)

    @pytest.mark.parametrize("score, together", [(3, 1e9), (1e9, 1e9), (3, 0)])
    def test_it_is_a_probability_whatever_the_scores(self, score: float, together: float) -> None:
        assert 0 < confidence(score, together) < 1
