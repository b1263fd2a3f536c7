"""The configuration file: every error names the key, what was expected and what came."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_aiops.config import Config, ConfigErrors, duration, load, parse
from otel_aiops.errors import ConfigError


def test_nothing_at_all_is_a_working_configuration() -> None:
    assert parse("").config == parse("{}").config == Config()


def test_a_key_with_nothing_behind_it_has_its_defaults() -> None:
    config = parse("receivers: {otlp: {protocols: {grpc: }}}\nseries:\n").config
    assert config.receivers.otlp.protocols.grpc is not None
    assert config.receivers.otlp.protocols.http is None  # a protocol that is not listed is off
    assert config.series == Config().series


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("serie: {}", "serie: is not a known key; known here: alertmanager, align, api, "),
        ("series: {max: 1}", "series.max: is not a known key; known here: ignore_names, max_label_bytes, max_series"),
        ("series: {max_series: many}", "series.max_series: expected a valid integer"),
        ("series: {max_series: 0}", "series.max_series: must be in 1 .. 2147483647, got 0"),
        ("series: [1]", "series: expected a mapping of keys, got [1]"),
        ("detection: {threshold: -1}", "detection.threshold: must be > 0, got -1.0"),
        ("emit: {compat: grafana}", "emit.compat: expected 'none', 'vmanomaly' or 'promql_anomaly', got 'grafana'"),
        ("exporters: {otlp: {}}", "exporters.otlp.endpoint: "),
        ("api: {endpoint: nowhere}", "api.endpoint: expected host:port"),
        ("receivers: {otlp: {protocols: {grpc: {tls: {cert_file: /x}}}}}", "receivers.otlp.protocols.grpc.tls"),
        ("receivers: {otlp: {protocols: {http: {max_request_body_size: 1GiB, max_in_flight_mib: 1}}}}", "must be at"),
        ("service: {snapshot_interval: soon}", "service.snapshot_interval: expected a valid number"),
    ],
)
def test_what_is_wrong_is_named(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert error in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse("series: {max_series: x}\nemit: {hold: [], other: 1}")
    assert [error.path for error in caught.value.errors] == ["series.max_series", "emit.hold", "emit.other"]


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "1: x", "a: b: c"])
def test_what_is_not_yaml_is_said_so(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse(text)


def test_a_key_that_stands_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'series' stands twice"):
        parse("series: {max_series: 1}\nseries: {max_series: 2}")


def test_units_of_time_and_size() -> None:
    config = parse("emit: {hold: 1m30s}\nservice: {tick_interval: 250ms}\nstorage: {queue_bytes: 5MiB}").config
    assert (config.emit.hold, config.service.tick_interval, config.storage.queue_bytes) == (90.0, 0.25, 5 << 20)


class TestVariables:
    def test_are_filled_in_and_keep_the_type_of_their_text(self) -> None:
        config = parse("series: {max_series: '${env:MOST}'}", {"MOST": "77"}).config
        assert config.series.max_series == 77

    def test_have_defaults(self) -> None:
        text = "api: {endpoint: '${env:HOST:-localhost}:${env:PORT:-9000}'}"
        assert parse(text, {}).config.api.endpoint == "localhost:9000"
        assert parse(text, {"PORT": "1234"}).config.api.endpoint == "localhost:1234"

    def test_that_are_not_set_are_warned_of(self) -> None:
        loaded = parse("storage: {directory: 'x${env:NOT_THERE}'}", {})
        assert loaded.warnings == ("storage.directory: environment variable NOT_THERE is not set, used as empty",)

    def test_cannot_add_keys(self) -> None:
        with pytest.raises(ConfigError, match=r"series: expected a mapping of keys, got '\{max_series: 5\}'"):
            parse("series: ${env:MANY}", {"MANY": "{max_series: 5}"})

    def test_with_bad_names_are_errors(self) -> None:
        with pytest.raises(ConfigError, match=r"storage.directory: expected \$\{env:NAME\}"):
            parse("storage: {directory: '${env:a b}'}", {})

    def test_dollars_can_be_written(self) -> None:
        assert parse("storage: {directory: 'a$$b'}", {}).config.storage.directory == "a$b"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nothing\.yaml"):
        load(tmp_path / "nothing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load(binary)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1m30s", 90), ("14d", 14 * 86_400), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1x", "soon", "5 minutes"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a duration"):
        duration(text)


def test_the_largest_body_is_that_of_any_receiver() -> None:
    assert Config().body_limit_bytes() == 64 << 20
    larger = parse("receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 100}}}}").config
    assert larger.body_limit_bytes() == 100 << 20


def test_policies_and_calendars_are_lists_that_may_be_empty() -> None:
    assert parse("policies:\ncalendar:").config == Config()
    found = parse("policies: [{match: {code: 500}, min_dev_from_expected: 3}]\ncalendar: [{tz: Asia/Tokyo}]").config
    assert found.policies[0].match == {"code": 500} and found.calendar[0].tz == "Asia/Tokyo"
    assert found.pipeline().policies == found.policies and found.pipeline().calendar == found.calendar
    assert found.pipeline() != Config().pipeline()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies: {name: x}", "policies: "),
        ("policies: [{}, {data_range: [2, 1]}]", "policies.1.data_range: expected [low, high]"),
        ("policies: [{match: {name: '~('}}]", "policies.0.match.name: is not a regular expression"),
        ("policies: [{min_count_dev: -1}]", "policies.0.min_count_dev: must be >= 0"),
        ("policies: [{skip_result: [{days: someday}]}]", "policies.0.skip_result.0.days: expected mon"),
        ("policies: [{direction: up}]", "policies.0.direction: is not a known key"),
        ("calendar: [{tz: Mars/Olympus}]", "calendar.0.tz: expected a time zone"),
        ("calendar: [{special: [{days: [soon]}]}]", "calendar.0.special.0.days.0: expected a date"),
    ],
)
def test_wrong_policies_and_calendars_name_their_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(said)


class TestBudgets:
    def test_are_one_for_all_or_one_for_each_team(self) -> None:
        assert parse("budget: 2/week").config.pipeline().budget == "2/week"
        found = parse("budget: 3\nbudgets: [{name: shop, match: {service: cart}, budget: 1/day, hold: 10m}]").config
        assert found.budget == 3 and found.pipeline().budgets == found.budgets
        (shop,) = found.budgets
        assert (shop.name, shop.match, shop.hold, shop.group) == ("shop", {"service": "cart"}, 600.0, 600.0)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("budget: often", "budget: expected a number a week or one like 2/week"),
            ("budget: 0", "budget: must be in 0.01 .. 100000 alerts a week, got 0"),
            ("budgets: [{name: a}, {name: b, budget: 1/year}]", "budgets.1.budget: expected a number a week"),
            ("budgets: [{name: a, match: {service: '~('}}]", "budgets.0.match.service: is not a regular expression"),
            ("budgets: [{name: a, floor: 9, ceiling: 2}]", "budgets.0.floor: must be"),
            ("budgets: [{name: a}, {name: a}]", "budgets.1.name: expected a name of its own, got 'a', which stands"),
            ("budgets: [{match: {service: a}}]", "budgets.0.name: expected a name of its own, got 'default', which is"),
            ("budgets: [{name: a, weekly: 2}]", "budgets.0.weekly: is not a known key"),
        ],
    )
    def test_that_are_wrong_are_named(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as error:
            parse(text)
        assert said in str(error.value)


def test_a_variable_of_several_lines_keeps_them() -> None:
    text = "api: {tls: {cert_file: c, key_pem: '${env:KEY}'}}"
    found = parse(text, {"KEY": "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"}).config.api.tls
    assert found and found.key_pem == "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("api: {auth: {bearertokenauth: {tokens: ['${env:A}', written]}}}", ["api.auth.bearertokenauth.tokens.1"]),
        ("api: {auth: {basicauth: {username: a, password: $$x}}}", ["api.auth.basicauth.password"]),
        ("api: {webhooks: {secret: 0123456789abcdef}}", ["api.webhooks.secret"]),
        ("governance: {hash: [a], salt: 0123456789abcdef}", ["governance.salt"]),
        (
            "exporters: {otlp: {endpoint: 'x:1', headers: {authorization: Bearer x, a: b}}}",
            ["exporters.otlp.headers.authorization"],
        ),
        ("journal: {url: 'postgresql://me:word@127.0.0.1/x'}", ["journal.url"]),
        ("responses: {notify: [{name: n, urls: ['json://me:word@x/']}]}", ["responses.notify.0.urls.0"]),
        (
            "responses: {commands: [{name: c, argv: [/bin/true], env: {API_KEY: x, HOME: /}}]}",
            ["responses.commands.0.env.API_KEY"],
        ),
    ],
)
def test_a_secret_that_is_written_out_is_refused(text: str, paths: list[str]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(text, {"A": "0123456789abcdef"})
    assert [one.path for one in caught.value.errors] == paths
    assert all("got a secret written out" in one.message for one in caught.value.errors)


def test_what_is_no_secret_is_written_out() -> None:
    found = parse(
        "responses: {webhooks: [{name: w, to: {url: 'http://x:80/a', headers: {X-Team: a}}}]}\n"
        "journal: {url: 'postgresql://me:${env:WORD}@127.0.0.1/x'}\n",
        {"WORD": "word"},
    )
    assert found.config.journal.url == "postgresql://me:word@127.0.0.1/x"


def test_a_variable_that_is_not_set_is_named_beside_the_error() -> None:
    with pytest.raises(ConfigErrors, match="environment variable GONE is not set"):
        parse("api: {webhooks: {secret: '${env:GONE}', timestamp_header: [a]}}", {})
