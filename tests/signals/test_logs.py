"""Logs: windows count every record once, news are told once, and a restore changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.otlp.points import Kind
from otel_aiops.series.align import Align, AlignConfig
from otel_aiops.series.table import SeriesTable, TableConfig
from otel_aiops.signals.log_news import NewsConfig
from otel_aiops.signals.logs import (
    AHEAD,
    LATE,
    OVER_RATE,
    OVER_TEMPLATES,
    Logs,
    LogsConfig,
    LogWindow,
    points,
    severity_class,
)
from otel_aiops.signals.names import Names
from otel_aiops.signals.templates import TemplatesConfig

S = 10**9
START = 1_000 * S  # a border of windows
INFO, ERROR = 9, 17

Row = tuple[int, float, int, str]  # service, seconds after START, severity, body


def batch(rows: Sequence[Row], names: Sequence[str] | None = None) -> tuple[LogRecords, np.ndarray]:
    count = len(rows)
    records = LogRecords(
        resources=(b"",),
        resource=np.zeros(count, np.int32),
        time_ns=np.array([START + round(row[1] * S) for row in rows], np.int64),
        severity=np.array([row[2] for row in rows], np.uint8),
        bodies=[row[3] for row in rows],
        event_name=list(names or [""] * count),
        trace_high=np.arange(count, dtype=np.uint64),
        trace_low=np.arange(count, dtype=np.uint64),
        span=np.arange(count, dtype=np.uint64),
    )
    return records, np.array([row[0] for row in rows], np.int32)


def add(logs: Logs, rows: Sequence[Row], now: float) -> list[int]:
    records, services = batch(rows)
    return logs.add(records, services, np.full(len(rows), 7, np.int32), START + round(now * S)).template.tolist()


def close(logs: Logs, now: float) -> tuple[LogWindow, ...]:
    return logs.close(START + round(now * S))


def plain(window: LogWindow) -> tuple[object, ...]:
    """A window as something that can be compared."""
    return tuple(x.tolist() if isinstance(x, np.ndarray) else x for x in (getattr(window, n) for n in window.__slots__))


def run(logs: Logs, windows: Sequence[Sequence[Row]]) -> list[LogWindow]:
    """Windows one after the other: rows of each with times from its start."""
    found = []
    for number, rows in enumerate(windows):
        add(logs, [(s, 10 * number + t, severity, body) for s, t, severity, body in rows], 10 * number + 9)
        found.extend(close(logs, 10 * number + 15))
    return found


def kinds(windows: Sequence[LogWindow]) -> list[tuple[int, str, str]]:
    return [((window.start_ns - START) // (10 * S), news.kind, news.text) for window in windows for news in window.news]


def test_a_window_counts_by_service_class_and_template() -> None:
    logs = Logs(LogsConfig())
    rows = [(1, 0, INFO, "cart is full"), (2, 1, ERROR, "disk is full"), (1, 9.9, INFO, "cart is full"),
            (1, 3, ERROR, "no such user 7"), (1, 10, INFO, "cart is full")]  # fmt: skip
    assert add(logs, rows, 10) == [1, 2, 1, 3, 1]
    assert close(logs, 14.9) == ()
    (window,) = close(logs, 15)
    assert (window.start_ns, window.end_ns) == (START, START + 10 * S)
    assert list(zip(window.service, window.severity, window.count, strict=True)) == [(1, 3, 2), (1, 5, 1), (2, 5, 1)]
    assert list(zip(window.template, window.template_service, window.template_count, strict=True)) == [
        (1, 1, 2),
        (2, 2, 1),
        (3, 1, 1),
    ]
    assert close(logs, 16) == ()
    (window,) = close(logs, 100)
    assert list(zip(window.service, window.severity, window.count, strict=True)) == [(1, 3, 1), (1, 5, 0)]


def test_events_carry_what_records_had_and_mark_what_is_new() -> None:
    logs = Logs(LogsConfig())
    rows: list[Row] = [(1, 0, INFO, "cart is full"), (1, 0, INFO, "cart is full"), (1, 1, INFO, "x")]
    records, services = batch(rows, ["", "", "a"])
    events = logs.add(records, services, np.array([4, 5, 6], np.int32), START)
    assert events.new.tolist() == [True, False, True]
    assert events.resource.tolist() == [4, 5, 6]
    assert events.span is records.span and events.time_ns is records.time_ns and len(events) == 3
    again = logs.add(records, services, np.array([4, 5, 6], np.int32), START)
    assert not again.new.any()
    assert logs.templates.text(2) == "a"


def test_empty_batches_are_nothing() -> None:
    logs = Logs(LogsConfig())
    assert add(logs, [], 0) == []
    assert close(logs, 1000) == ()


def test_severities_become_classes() -> None:
    numbers = np.array([0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 255], np.uint8)
    assert severity_class(numbers).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0, 0]


def test_late_and_early_records_are_counted_and_told() -> None:
    logs = Logs(LogsConfig())
    add(logs, [(1, 5, INFO, "cart is full")], 5)
    assert len(close(logs, 15)) == 1
    add(logs, [(1, 5, INFO, "cart is full"), (1, 9_999, INFO, "cart is full"), (1, 16, INFO, "cart is full")], 16)
    assert logs.counts == {LATE: 1, AHEAD: 1}
    assert [window.count.sum() for window in close(logs, 500)] == [2, 1]


def test_over_the_rate_records_are_counted_and_not_mined() -> None:
    logs = Logs(LogsConfig(rate=0.5))  # five in a window
    rows = [(1, 1, INFO, "cart is full")] * 4
    assert add(logs, rows, 1) == [1] * 4
    assert add(logs, [*rows, (1, 1, ERROR, "disk is full"), (2, 1, INFO, "x"), (1, 11, INFO, "cart is full")], 2) == [
        1, 0, 0, 0, 2, 3, 1]  # fmt: skip
    assert logs.counts == {OVER_RATE: 3}
    window = close(logs, 15)[0]
    assert window.count.tolist() == [8, 1, 1]
    assert window.template_count.tolist() == [5, 1, 1]


def test_over_the_limit_of_templates_records_are_counted() -> None:
    logs = Logs(LogsConfig(templates=TemplatesConfig(per_class=1)))
    assert add(logs, [(1, 0, INFO, "cart is full"), (1, 0, INFO, "disk of two went missing")], 0) == [1, 0]
    assert logs.counts == {OVER_TEMPLATES: 1}
    assert close(logs, 20)[0].count.tolist() == [2]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.floats(0, 29), st.sampled_from((0, INFO, ERROR)), st.sampled_from(("a", "b c", "d"))
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_batches_changes_no_count(rows: list[Row], rng: object, size: int) -> None:
    def counted(some: Sequence[Row]) -> list[tuple[object, ...]]:
        logs = Logs(LogsConfig())
        for k in range(0, len(some), size):
            add(logs, some[k : k + size], 14)
        found = []
        for window in close(logs, 500):
            text = [logs.templates.text(k) for k in window.template.tolist()]
            owner = window.template_service.tolist()
            by_text: Counter[tuple[int, str]] = Counter()
            for key, count in zip(zip(owner, text, strict=True), window.template_count.tolist(), strict=True):
                by_text[key] += count
            has = [(s, c, n) for s, c, n in zip(window.service, window.severity, window.count, strict=True) if n]
            found.append((window.start_ns, has, sorted(by_text.items())))
        return found

    shuffled = list(rows)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert counted(rows) == counted(shuffled)
    slow = Counter((row[0], int(severity_class(np.array([row[2]], np.uint8))[0]), int(row[1] // 10)) for row in rows)
    assert {(s, c, (start - START) // (10 * S)): n for start, has, _ in counted(rows) for s, c, n in has} == slow


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 9.9), st.sampled_from((INFO, ERROR)),
                                   st.sampled_from(("a", "b c", "cart of bob", "cart of eve", "cart of joe"))),
                         max_size=15), min_size=1, max_size=12), st.integers(0, 11))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_goes_on_after_a_restore_as_if_nothing_had_been(windows: list[list[Row]], at: int) -> None:
    config = LogsConfig(rate=0.5, news=NewsConfig(known_windows=2, lost_windows=2, surge_count=2))

    def step(logs: Logs, number: int) -> list[object]:
        rows = [(s, 10 * number + t, severity, body) for s, t, severity, body in windows[number]]
        half = len(rows) // 2
        found: list[object] = [add(logs, rows[:half], 10 * number), add(logs, rows[half:], 10 * number + 9)]
        return found + [plain(window) for window in close(logs, 10 * number + 9)]

    straight, first = Logs(config), Logs(config)
    expected = [step(straight, number) for number in range(len(windows))]
    found = [step(first, number) for number in range(min(at, len(windows)))]
    second = Logs(config)
    second.restore(first.state())
    found += [step(second, number) for number in range(len(found), len(windows))]
    assert found == expected
    for name, array in straight.state().items():
        np.testing.assert_array_equal(second.state()[name][: len(array)], array, strict=True)


def test_a_template_is_new_only_when_its_service_is_known() -> None:
    usual: list[Row] = [(1, t, INFO, "cart is full") for t in range(5)]
    windows = [list(usual) for _ in range(40)]
    windows[5].append((1, 6, INFO, "early bird sings here"))
    windows[35] += [(1, 6, ERROR, "deadlock in table 7"), (2, 6, INFO, "first words of another service")]
    found = run(Logs(LogsConfig()), windows)
    assert kinds(found) == [(35, "new", "deadlock in table <*>")]
    news = found[35].news[0]
    assert (news.service, news.count, news.severity, news.usual) == (1, 1, 5, 0.0)


def test_a_regular_template_is_lost_once_and_only_while_its_service_logs() -> None:
    other: list[Row] = [(1, 1, INFO, "cart is full")]
    beat: list[Row] = [(1, 2, INFO, "heartbeat of worker")]
    windows = [other + beat * (k % 3 == 0) for k in range(40)] + [[] for _ in range(50)] + [other for _ in range(30)]
    windows += [other + beat for _ in range(5)] + [list(other) for _ in range(100)]
    found = kinds(run(Logs(LogsConfig()), windows))
    assert [kind for _, kind, _ in found] == ["lost", "lost"]
    assert {text for _, _, text in found} == {"heartbeat of worker"}
    # seen last in window 39, away for 2 at most: 9 windows in which the service logs, the first of them is 90
    assert found[0][0] == 98
    assert found[1][0] > 125 + 30  # then it has been away for 30


def test_rare_templates_are_not_lost() -> None:
    windows: list[list[Row]] = [[(1, 1, INFO, "cart is full")] for _ in range(100)]
    windows[3].append((1, 2, INFO, "only now and then"))
    windows[20].append((1, 2, INFO, "only now and then"))
    assert kinds(run(Logs(LogsConfig()), windows)) == []


def test_a_surge_is_told_and_traffic_as_usual_is_not() -> None:
    rng = np.random.default_rng(1)
    windows: list[list[Row]] = [[(1, 1, ERROR, "retry of call 7")] * int(n) for n in rng.poisson(8, 400) + 1]
    assert kinds(run(Logs(LogsConfig()), windows)) == []
    windows[300] = [(1, 1, ERROR, "retry of call 7")] * 60
    found = run(Logs(LogsConfig()), windows)
    assert kinds(found) == [(300, "surge", "retry of call <*>")]
    news = found[300].news[0]
    assert news.count == 60
    assert 6 < news.usual < 12


def test_counts_are_points_that_the_aligner_takes() -> None:
    logs, names = Logs(LogsConfig()), Names(10)
    services = names.numbers(["cart", "web"])
    for window in range(3):
        rows = [(int(services[0]), 10 * window + 1, INFO, "x")] * (window + 1)
        rows += [(int(services[0]), 1, ERROR, "y"), (int(services[1]), 2, 0, "z")] * (window == 0)
        add(logs, rows, 10 * window + 1)
    table, align, found = SeriesTable(TableConfig()), Align(AlignConfig()), []
    for window in close(logs, 100):
        made = points(window, names)
        assert {(s.name, s.kind) for s in made.streams} == {("log.record.count", Kind.GAUGE)}
        rows = table.rows(made, event_now_ns=window.end_ns)
        aligned = align.step(made, rows, now_ns=window.end_ns)
        assert not aligned.counts
        for part in aligned.batches:
            labels = [table.labels(row) for row in part.rows.tolist()]
            found += [(x.service, dict(x.attributes)["severity"], v) for x, v in zip(labels, part.value, strict=True)]
    assert sorted(found) == [("cart", "error", 0), ("cart", "error", 0), ("cart", "error", 1), ("cart", "info", 1),
                             ("cart", "info", 2), ("cart", "info", 3), ("web", "unset", 1)]  # fmt: skip


def test_bad_records_stop_nothing() -> None:
    logs = Logs(LogsConfig())
    bodies = ["", "\x00" * 99, "\ufffd" * 500, "x" * 10_000_000, "{" * 5_000, "\ud800", '{"message":' * 2_000]
    rows = [(0, k, k * 40, body) for k, body in enumerate(bodies)]
    records, services = batch(rows)
    for time_ns in (np.zeros(len(rows), np.int64), np.full(len(rows), 2**62, np.int64), -records.time_ns):
        odd = LogRecords(**{n: getattr(records, n) for n in records.__slots__ if n != "time_ns"}, time_ns=time_ns)
        assert len(logs.add(odd, services, services, START)) == len(rows)
    assert sum(window.count.sum() for window in close(logs, 1_000)) == 3 * len(rows)


def test_a_million_kinds_of_lines_are_bounded() -> None:
    logs = Logs(LogsConfig(templates=TemplatesConfig(per_class=50)))
    letters = "abcdefghij"
    words = ["".join(letters[int(d)] for d in str(k)) for k in range(20_000)]
    rows = [(1, 1, INFO, f"{a} {b} " * (1 + k % 7)) for k, (a, b) in enumerate(pairwise(words))]
    add(logs, rows, 1)
    counted = logs.counts[OVER_TEMPLATES]
    (window,) = close(logs, 20)
    assert len(window.template) <= 50
    assert window.count.tolist() == [len(rows)] == [window.template_count.sum() + counted]
    assert sum(array.nbytes for array in logs.state().values()) < 1_000_000


def test_a_state_that_does_not_fit_is_refused() -> None:
    logs = Logs(LogsConfig())
    add(logs, [(1, 1, INFO, "cart is full")], 1)
    good = logs.state()
    open_rows = [[[1, 1, 9, 1]], [[1, 0, 70_000, 1]], [[1, 2, 0, 1]], [[1, 0, 3, -1]], [[1, 0, 3]]]
    bad = [{}, good | {"closed": np.zeros(2, np.int64)}, good | {"usual.seen": np.zeros(7, np.int64)}]
    bad += [good | {"more": good["closed"]}, *(good | {"open.rows": np.array(rows)} for rows in open_rows)]
    for arrays in bad:
        with pytest.raises(StateError):
            Logs(LogsConfig()).restore(arrays)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"rate": -1}, {"body": 0}, {"grace": 11}])
def test_bounds_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LogsConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"known_windows": 0}, {"lost_factor": 0.5}, {"surge_factor": 0}])
def test_what_is_news_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NewsConfig(**wrong)  # type: ignore[arg-type]
