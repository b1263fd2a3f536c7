"""Series that leave what they usually show, as their points come."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.rings import Rings
from otel_aiops.incidents.watch import Watch, WatchConfig

S = 10**9
SLOT = np.array([0], np.int32)
NOISE = np.random.default_rng(3).normal(0, 1, 2000)


class Line:
    """One watched series with a value a minute."""

    def __init__(self, config: WatchConfig | None = None, floor: float = 0.1) -> None:
        self.rings = Rings(240, 10.0)
        self.watch = Watch(config or WatchConfig(), self.rings)
        self.rings.reserve(1)
        self.watch.reserve(1)
        self.floor, self.time_ns, self.sent = np.array([floor]), 60 * S, 0

    def send(self, *values: float, sign: float = 1.0) -> Line:
        for value in values:
            self.time_ns += 60 * S
            fresh = self.rings.push(SLOT, np.array([self.time_ns]), np.array([value]))
            self.watch.update(SLOT, fresh, np.array([sign]), self.floor, np.array([False]))
        return self

    def quiet(self, count: int) -> Line:
        self.send(*NOISE[self.sent : self.sent + count])
        self.sent += count
        return self

    def runs(self) -> bool:
        return bool(self.watch.of["start_ns"][0])


def test_quiet_series_say_nothing() -> None:
    line = Line().quiet(1500)
    assert not len(line.watch.changed(line.time_ns))


def test_a_lasting_shift_is_noticed_with_its_second_cell_and_began_with_its_first() -> None:
    line = Line().quiet(100)
    line.send(15.0)
    assert not line.runs()
    line.send(15.0)
    assert line.runs()
    assert line.watch.of["start_ns"][0] == line.time_ns - 60 * S
    assert line.watch.changed(line.time_ns).tolist() == [0]
    assert not len(line.watch.changed(line.time_ns))  # told only once


def test_a_very_large_one_is_noticed_at_once_and_a_lone_one_never() -> None:
    assert Line().quiet(100).send(90.0).runs()
    line = Line().quiet(100).send(15.0).quiet(20)
    assert not line.runs() and line.watch.of["peak"][0] > 8


def test_what_a_series_does_now_and_then_raises_its_threshold() -> None:
    spiky = Line().quiet(60)
    for _ in range(5):
        spiky.send(12.0).quiet(10)
    assert not spiky.send(13.0, 13.0).runs()
    assert Line().quiet(115).send(13.0, 13.0).runs()


def test_low_values_are_bad_where_the_sign_says_so() -> None:
    down = Line()
    for value in 99 + 0.1 * NOISE[:60]:
        down.send(value, sign=-1.0)
    for _ in range(3):
        down.send(90.0, sign=-1.0)
    assert down.runs()
    up = Line()
    for value in 50 + 0.1 * NOISE[:60]:
        up.send(value, sign=-1.0)
    for _ in range(3):
        up.send(90.0, sign=-1.0)
    assert not up.runs()


def test_a_run_ends_after_calm_cells() -> None:
    line = Line().quiet(100).send(20.0, 20.0, 20.0)
    line.watch.changed(line.time_ns)
    last = line.time_ns
    line.quiet(2)
    assert line.runs()
    line.quiet(1)
    assert not line.runs()
    assert line.watch.changed(line.time_ns).tolist() == [0]
    assert line.watch.of["end_ns"][0] == last


def test_a_run_ends_when_nothing_comes_any_more() -> None:
    line = Line().quiet(100).send(20.0, 20.0)
    line.watch.changed(line.time_ns)
    assert line.watch.changed(line.time_ns + 3600 * S).tolist() == [0]
    assert not line.runs()


def test_hits_before_a_long_gap_do_not_count() -> None:
    line = Line().quiet(100).send(15.0)
    line.time_ns += 3600 * S
    assert not line.send(15.0).runs()


def test_a_shift_that_stays_becomes_normal() -> None:
    line = Line().quiet(240).send(*(20.0 + NOISE[:400]))
    assert not line.runs()
    assert line.watch.of["level"][0] == pytest.approx(20, abs=1)


def test_a_run_does_not_teach_what_is_usual() -> None:
    line = Line().quiet(100)
    before = line.watch.of["level"][0]
    line.send(*[20.0] * 60).quiet(20)
    assert line.watch.of["level"][0] == pytest.approx(before, abs=0.5)


def test_no_warning_before_the_warm_up_and_none_without_a_spread() -> None:
    assert not Line().quiet(10).send(50.0, 50.0).runs()
    assert not Line(floor=0.0).send(*[0.0] * 60, 5.0, 5.0).runs()


def test_cells_that_fill_up_slowly_count_once() -> None:
    line = Line().quiet(100)
    line.send(15.0)
    line.time_ns -= 55 * S  # the next values come within the same cell
    line.send(15.0)
    assert not line.runs()


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="least_z"):
        WatchConfig(least_z=0)
