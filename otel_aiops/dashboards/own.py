"""otel-aiops itself: what it takes, scores and sends, how fast, from which queues, and what its self-test says."""

from collections.abc import Iterator

from otel_aiops.dashboards.board import (
    NONE_IS_GOOD,
    OURS,
    SHARE_IS_BAD,
    SHARE_IS_GOOD,
    Board,
    Panel,
    Query,
    Row,
    instances,
    lines,
    quantiles,
    stat,
)

_WORDS = {"metric_points": "points", "spans": "spans", "log_records": "log records"}


def _rates(stem: str, words: tuple[str, ...] = tuple(_WORDS)) -> Iterator[Query]:
    for word in words:
        yield Query(f"sum(rate({stem}_{word}_total{{{OURS}}}[$__rate_interval]))", _WORDS[word])


BOARD = Board(
    name="self",
    title="otel-aiops: self",
    says="Throughput, delay, queues, disk, exporters, self-test and configuration of otel-aiops itself.",
    variables=(instances("otel_aiops_build_info"),),
    since="now-6h",
    items=(
        stat("Running", "How many otel-aiops are scraped.", f"count(otel_aiops_build_info{{{OURS}}})"),
        stat(
            "Points scored",
            "Per second.",
            f"sum(rate(otel_aiops_points_scored_total{{{OURS}}}[$__rate_interval]))",
            unit="cps",
        ),
        stat(
            "Delay, 99th percentile",
            "From the receipt of a body to its scores.",
            "histogram_quantile(0.99, sum by (le) "
            f"(rate(otel_aiops_score_latency_seconds_bucket{{{OURS}}}[$__rate_interval])))",
            unit="s",
            steps=((None, "green"), (1, "yellow"), (2, "red")),
        ),
        stat(
            "Queue in use",
            "Accepted bodies that wait to be scored, by how many may wait.",
            f"max(otel_aiops_step_queue_size{{{OURS}}} / otel_aiops_step_queue_capacity)",
            unit="percentunit",
            steps=SHARE_IS_BAD,
        ),
        stat(
            "Faults of its own",
            "Steps, snapshots, writes of log and journal that failed in the time shown.",
            " + ".join(
                f"sum(increase(otel_aiops_{what}_total{{{OURS}}}[$__range]))"
                for what in ("step_failures", "snapshot_failures", "log_refused", "journal_failures")
            ),
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Self-test, problems",
            "That the newest self-test names. `otel-aiops selftest` has the words.",
            f"max(otel_aiops_selftest_problems{{{OURS}}})",
            steps=NONE_IS_GOOD,
        ),
        Row("In"),
        lines(
            "Accepted", "In the log and acknowledged, per second.", *_rates("otel_aiops_receiver_accepted"), unit="cps"
        ),
        lines(
            "Refused or lost",
            "Refused: the sender was told to send again or to mend it. Lost: to a fault of otel-aiops.",
            *_rates("otel_aiops_receiver_refused"),
            Query(
                " + ".join(
                    f"(sum(rate(otel_aiops_receiver_failed_{word}_total{{{OURS}}}[$__rate_interval])) or vector(0))"
                    for word in _WORDS
                ),
                "lost",
            ),
            unit="cps",
        ),
        lines(
            "Requests",
            "Export requests by outcome, per second.",
            Query(
                "sum by (receiver, transport, outcome) "
                f"(rate(otel_aiops_receiver_requests_total{{{OURS}}}[$__rate_interval]))",
                "{{receiver}} {{transport}} {{outcome}}",
            ),
            unit="reqps",
        ),
        Row("Scoring"),
        lines(
            "Delay",
            "From the receipt of a body to its scores.",
            *quantiles("otel_aiops_score_latency_seconds", "", ""),
            unit="s",
        ),
        lines(
            "Queue",
            "Accepted bodies that wait to be scored.",
            Query(f"otel_aiops_step_queue_size{{{OURS}}}", "waiting {{instance}}"),
            Query(f"otel_aiops_step_queue_capacity{{{OURS}}}", "at most {{instance}}"),
        ),
        lines(
            "Bytes that wait",
            "Of the accepted bodies in the queue.",
            Query(f"otel_aiops_step_queue_bytes{{{OURS}}}", "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Scored, spans and log records read",
            "Per second.",
            Query(f"sum(rate(otel_aiops_points_scored_total{{{OURS}}}[$__rate_interval]))", "points scored"),
            Query(f"sum(rate(otel_aiops_spans_read_total{{{OURS}}}[$__rate_interval]))", "spans"),
            Query(f"sum(rate(otel_aiops_log_records_read_total{{{OURS}}}[$__rate_interval]))", "log records"),
            unit="cps",
        ),
        lines(
            "What is known",
            "Series; services, operations and edges of the service graph; log templates.",
            Query(f"sum(otel_aiops_series_active{{{OURS}}})", "series"),
            *(
                Query(f"sum(otel_aiops_{name}{{{OURS}}})", word)
                for name, word in (
                    ("services_known", "services"),
                    ("operations_known", "operations"),
                    ("service_edges", "edges"),
                    ("templates_known", "log templates"),
                )
            ),
        ),
        lines(
            "Spans that wait",
            "For the rest of their trace.",
            Query(f"otel_aiops_traces_waiting{{{OURS}}}", "{{instance}}"),
        ),
        Row("Disk"),
        lines(
            "Write-ahead log",
            "Bytes written per second.",
            Query(f"sum(rate(otel_aiops_log_bytes_total{{{OURS}}}[$__rate_interval]))", "log"),
            unit="Bps",
        ),
        lines(
            "Made durable",
            "Times per second that the log was made durable, and rows written to Parquet.",
            Query(f"sum(rate(otel_aiops_log_syncs_total{{{OURS}}}[$__rate_interval]))", "syncs"),
            Query(f"sum(rate(otel_aiops_segment_rows_total{{{OURS}}}[$__rate_interval]))", "rows"),
            unit="cps",
        ),
        lines(
            "Snapshots",
            "Time to write one, in the hour before.",
            *quantiles("otel_aiops_snapshot_duration_seconds", "", "", window="1h"),
            unit="s",
        ),
        Row("Out"),
        lines(
            "Scores and incidents sent",
            "That the destination took, per second.",
            *_rates("otel_aiops_exporter_sent", ("metric_points", "log_records")),
            unit="cps",
        ),
        lines(
            "Not sent",
            "Refused by the destination, or dropped because the queue was full; per second.",
            Query(
                "sum by (exporter) "
                f"(rate(otel_aiops_exporter_send_failed_metric_points_total{{{OURS}}}[$__rate_interval]))",
                "{{exporter}} refused",
            ),
            Query(
                "sum by (exporter) "
                f"(rate(otel_aiops_exporter_enqueue_failed_metric_points_total{{{OURS}}}[$__rate_interval]))",
                "{{exporter}} dropped",
            ),
            Query(
                f"sum(rate(otel_aiops_emit_overflow_total{{{OURS}}}[$__rate_interval]))",
                "over the limit of emitted series",
            ),
            unit="cps",
        ),
        lines(
            "Sending queue",
            "Requests that wait, and how many may.",
            Query(f"otel_aiops_exporter_queue_size{{{OURS}}}", "{{exporter}} waiting"),
            Query(f"otel_aiops_exporter_queue_capacity{{{OURS}}}", "{{exporter}} at most"),
        ),
        Row("Does it still find anything?"),
        Panel(
            "bars",
            "Self-test: plain faults found",
            "Over only those series in which nobody could miss the fault.",
            (Query(f"min by (fault) (otel_aiops_selftest_plain_recall{{{OURS}}})", "{{fault}}"),),
            unit="percentunit",
            steps=SHARE_IS_GOOD,
        ),
        Panel(
            "table",
            "Self-test",
            "By kind of fault: share found, share of its points over the threshold, points until the first of them.",
            (
                Query(f"min by (fault) (otel_aiops_selftest_recall{{{OURS}}})", "found"),
                Query(f"min by (fault) (otel_aiops_selftest_covered{{{OURS}}})", "covered"),
                Query(f"max by (fault) (otel_aiops_selftest_delay{{{OURS}}})", "delay (points)"),
            ),
            units={"found": "percentunit", "covered": "percentunit"},
        ),
        lines(
            "False alarms and age",
            "False alarms a series-day on copies without a fault; days since the test.",
            Query(f"otel_aiops_selftest_false_alarms{{{OURS}}}", "false alarms {{instance}}"),
            Query(f"otel_aiops_selftest_age_seconds{{{OURS}}} / 86400", "age in days {{instance}}"),
        ),
        Row("Configuration"),
        Panel(
            "table",
            "What runs",
            "Version of otel-aiops and of Python.",
            (Query(f"otel_aiops_build_info{{{OURS}}}"),),
            hidden=("job",),
        ),
        stat(
            "Newest configuration",
            "1 when the last reload worked, 0 when the one before runs on.",
            f"min(otel_aiops_config_reload_success{{{OURS}}})",
            steps=((None, "red"), (1, "green")),
        ),
        stat(
            "Loaded",
            "Time since the configuration was last loaded.",
            f"time() - max(otel_aiops_config_reload_timestamp_seconds{{{OURS}}})",
            unit="s",
        ),
    ),
)
