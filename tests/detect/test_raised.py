"""The newest alerts are remembered, found by time, and restored as they were; what is too old gives way."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.detect.budget import Alerted
from otel_aiops.detect.raised import NEAR_NS, Ledger
from otel_aiops.errors import StateError
from otel_aiops.series.batch import Batch

S = 10**9


def follow(ledger: Ledger, at_s: int, ratios: dict[int, float], shift: float | None = None) -> None:
    """Rows have an alert where their ratio is positive; fingerprints are rows and 100."""
    rows, ratio = np.array(list(ratios), np.int32), np.array(list(ratios.values()))
    empty = np.full(len(rows), np.nan)
    active = ratio > 0
    moved = None if shift is None else np.full(len(rows), shift)
    alerted = Alerted(ratio, active, active, active, np.full(len(rows), 2.0), shift=moved)
    batch = Batch(rows, np.full(len(rows), at_s * S, np.int64), empty, empty)
    ledger.follow(batch, alerted, lambda rows: rows.astype(np.uint64) + np.uint64(100))


def test_an_alert_goes_on_while_it_is_active_and_is_remembered_after() -> None:
    ledger = Ledger()
    follow(ledger, 10, {0: 2.0, 1: 0.0})
    follow(ledger, 20, {0: 5.0, 1: 1.5})
    follow(ledger, 30, {0: 3.0, 1: 1.2})
    first, second = ledger.active()
    assert (first.row, first.fingerprint, first.since_ns, first.time_ns) == (0, 100, 10 * S, 30 * S)
    assert (first.ratio, first.peak, first.threshold, first.shift) == (3.0, 5.0, 2.0, 0.0)
    assert second.row == 1 and second.peak == 1.5
    follow(ledger, 40, {0: 0.0})
    assert [one.row for one in ledger.active()] == [1]
    found = ledger.find(100, 25 * S)
    assert found is not None and found.row == -1 and found.peak == 5.0


def test_the_peak_is_in_thresholds_that_no_verdict_moved() -> None:
    ledger = Ledger()
    follow(ledger, 10, {0: 2.0}, shift=float(np.log(1.5)))
    (one,) = ledger.active()
    assert one.peak == pytest.approx(3.0) and one.shift == pytest.approx(np.log(1.5))


def test_the_nearest_alert_is_found_and_none_that_is_far() -> None:
    ledger = Ledger()
    for at_s, ratio in ((0, 2.0), (10, 0.0), (900, 7.0), (910, 0.0)):
        follow(ledger, at_s, {0: ratio})
    assert ledger.find(100, 300 * S).peak == 2.0  # type: ignore[union-attr]
    assert ledger.find(100, 800 * S).peak == 7.0  # type: ignore[union-attr]
    assert ledger.find(101, 0) is None
    assert ledger.find(100, 900 * S + NEAR_NS + 1) is None


def test_rows_that_end_have_no_alert_and_may_have_another() -> None:
    ledger = Ledger()
    follow(ledger, 10, {0: 2.0, 3: 2.0})
    ledger.end(np.array([3, 77], np.int32))
    assert [one.row for one in ledger.active()] == [0]
    follow(ledger, 20, {3: 4.0})
    assert sorted(one.peak for one in ledger.active()) == [2.0, 4.0]


def test_the_oldest_give_way_and_a_storm_takes_no_more_than_there_is() -> None:
    ledger = Ledger(4)
    follow(ledger, 10, {k: 1.0 + k for k in range(3)})
    follow(ledger, 20, {k: 1.0 + k for k in range(3, 6)})
    assert sorted(one.row for one in ledger.active()) == [2, 3, 4, 5]
    assert ledger.find(100, 10 * S) is None
    follow(ledger, 30, {k: 1.0 + k for k in range(10, 30)})
    assert len(ledger.active()) == 4
    follow(ledger, 40, dict.fromkeys(range(30), 0.0))
    assert not ledger.active()


def test_restored_it_goes_on_bit_for_bit() -> None:
    one, other = Ledger(8), Ledger(8)
    rng = np.random.default_rng(0)
    for k in range(60):
        ratios = dict(enumerate(np.where(rng.random(6) < 0.5, rng.random(6), 0.0).tolist()))
        follow(one, k, ratios)
        if k == 30:
            other.restore(one.state())
        elif k > 30:
            follow(other, k, ratios)
    a, b = one.state(), other.state()
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert one.active() == other.active()
    with pytest.raises(StateError):
        other.restore({**a, "count": np.zeros(2, np.int64)})
    Ledger().follow(Batch(*(np.empty(0, kind) for kind in (np.int32, np.int64, float, float))), None, None)  # type: ignore[arg-type]
