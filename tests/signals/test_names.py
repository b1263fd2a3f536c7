"""Names and sources: texts get numbers, up to a limit, and the same ones after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.signals.names import LONGEST, OTHER, OTHER_NAME, Names
from otel_aiops.signals.sources import KEPT, UNKNOWN_SERVICE, Sources, of_items
from tests.signals.made_spans import raw_resource


class TestNames:
    @given(st.lists(st.text(st.characters(), max_size=4)), st.integers(1, 8))
    def test_equal_a_list_of_what_came(self, asked: list[str], most: int) -> None:
        names, known, refused = Names(most), [OTHER_NAME], 0
        for name in asked:
            if name not in known and len(known) <= most:
                known.append(name)
            refused += name not in known
            assert names.number(name) == (known.index(name) if name in known else OTHER)
        assert list(names.all()) == known and names.refused == refused
        again = Names(most)
        again.restore(names.state())
        assert list(again.all()) == known
        assert all(again.find(name) == k and again[k] == name for k, name in enumerate(known))

    def test_a_name_over_the_limit_has_no_number_of_its_own(self) -> None:
        names = Names(1)
        assert names.numbers(["a", "b", "a"]).tolist() == [1, OTHER, 1]
        assert names.find("b") is None and names.refused == 1 and len(names) == 2

    def test_what_is_very_long_is_cut(self) -> None:
        names = Names(10)
        assert names.number("x" * 9999) == names.number("x" * LONGEST) == names.find("x" * 600) == 1
        assert len(names[1]) == LONGEST

    def test_lone_surrogates_live_through_a_restart(self) -> None:
        names, again = Names(10), Names(10)
        names.number("a\ud800b")
        again.restore(names.state())
        assert again.find("a\ud800b") == 1

    def test_a_state_that_does_not_fit(self) -> None:
        flat, ends = np.frombuffer(b"(other)\xff", np.uint8), np.array([7, 8])
        for bad in ({"names": flat}, {"names": flat, "ends": ends}, {"names": flat, "ends": np.array([7, 9])}):
            with pytest.raises(StateError):
                Names(10).restore(bad)
        empty = Names(10)
        empty.restore({"names": np.empty(0, np.uint8), "ends": np.empty(0, np.int64)})
        assert list(empty.all()) == [OTHER_NAME]


class TestSources:
    def test_a_resource_says_its_service_and_its_most_telling_instance(self) -> None:
        sources = Sources()
        pod = sources.read(raw_resource(service_name="cart", host_name="h1", k8s_pod_name="cart-1"))
        assert (pod.service, pod.instance, dict(pod.attributes)["host.name"]) == ("cart", "cart-1", "h1")
        assert sources.read(raw_resource(service_name="cart", host_name="h1")).instance == "h1"
        assert sources.read(raw_resource(service_name="cart")).instance == ""

    def test_one_without_a_name_or_that_cannot_be_read_is_of_the_unknown_service(self) -> None:
        sources = Sources()
        assert sources.read(b"").service == sources.read(b"\xff\xff").service == UNKNOWN_SERVICE
        assert sources.read(raw_resource(service_name="")).service == UNKNOWN_SERVICE

    def test_numbers_are_by_service_and_instance(self) -> None:
        sources = Sources(most_services=2, most_instances=3)
        raws = [raw_resource(service_name=f"s{k}", host_name=f"h{k // 2}") for k in range(4)] + [b""]
        services, instances = sources.numbers(raws)
        assert services.tolist() == [1, 2, 0, 0, 0] and instances.tolist() == [1, 1, 2, 2, 3]
        again = Sources(most_services=2, most_instances=3)
        again.restore(sources.state())
        assert again.numbers(raws)[0].tolist() == services.tolist()
        assert again.instances.all() == sources.instances.all()

    def test_what_is_remembered_of_resources_is_bounded_and_changes_nothing(self) -> None:
        sources = Sources(most_services=5)
        raws = [raw_resource(service_name=f"s{k % 7}", host_name=str(k)) for k in range(KEPT + 10)]
        first = sources.numbers(raws)[0].tolist()
        assert sources.numbers(raws)[0].tolist() == first and len(sources._read) <= KEPT
        assert len(sources.services) == 6

    def test_items_of_a_request_without_resources(self) -> None:
        none = np.empty(0, np.int32)
        assert of_items(none, np.zeros(3, np.int32)).tolist() == [0, 0, 0]
        assert of_items(np.array([4, 7], np.int32), np.array([1, 0, 1], np.int32)).tolist() == [7, 4, 7]
