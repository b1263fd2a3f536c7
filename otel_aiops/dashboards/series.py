"""Any series: its value in the band that was expected, its score, its forecast, and when it reaches its limit."""

from otel_aiops.dashboards.board import SCORE, Board, Panel, Query, Row, Variable, lines, stat

_PICK = 'job=~"$job", anomaly_metric_name=~"$metric", anomaly_stat=~"$stat"'
_NEEDS = "Needs `emit.expected: true`; with `emit.series: all` also while nothing is strange."
_BAND = ("upper", "lower")

BOARD = Board(
    name="series",
    title="otel-aiops: series",
    says="Value, band, score, forecast and time to exhaustion of the series of a metric.",
    variables=(
        Variable("job", "Service", "label_values(otel_aiops_anomaly_score, job)"),
        Variable(
            "metric", "Metric", 'label_values(otel_aiops_anomaly_score{job=~"$job"}, anomaly_metric_name)', many=False
        ),
        Variable(
            "stat",
            "Statistic",
            'label_values(otel_aiops_anomaly_score{job=~"$job", anomaly_metric_name=~"$metric"}, anomaly_stat)',
        ),
    ),
    since="now-6h",
    items=(
        stat(
            "Score now", "The highest of the chosen series.", f"max(otel_aiops_anomaly_score{{{_PICK}}})", steps=SCORE
        ),
        stat(
            "Probability now",
            "One minus the share of its normal points that score as high.",
            f"max(otel_aiops_anomaly_probability{{{_PICK}}})",
            unit="percentunit",
        ),
        stat(
            "Alert now",
            "How many of the chosen series have an alert.",
            f"sum(otel_aiops_alert_active{{{_PICK}}})",
            steps=((None, "green"), (1, "red")),
        ),
        stat("Series", "How many are emitted now.", f"count(otel_aiops_anomaly_score{{{_PICK}}})"),
        stat(
            "Soonest at its limit",
            "Of the chosen series that `forecast` selects and that reach a limit within their horizon.",
            f"min(otel_aiops_forecast_exhaustion_time_seconds{{{_PICK}}})",
            unit="s",
        ),
        stat(
            "Probability of that",
            "Share of the possible futures that reach the limit within the horizon.",
            f"max(otel_aiops_forecast_exhaustion_probability{{{_PICK}}})",
            unit="percentunit",
        ),
        Row("Value and score"),
        Panel(
            "lines",
            "Value and band",
            f"The value that was scored (a rate, where it counts), what was expected, and the band. {_NEEDS} "
            "The area is drawn when one series is chosen.",
            (
                Query(f"max(otel_aiops_expected_upper{{{_PICK}}})", "upper"),
                Query(f"min(otel_aiops_expected_lower{{{_PICK}}})", "lower"),
                Query(f"otel_aiops_expected{{{_PICK}}}", "expected"),
                Query(f"otel_aiops_value{{{_PICK}}}", "value {{anomaly_stat}} {{instance}}"),
            ),
            band=_BAND,
            width=24,
            height=10,
        ),
        lines(
            "Score",
            "How strange the series is; 1 is the threshold.",
            Query(f"otel_aiops_anomaly_score{{{_PICK}}}", "{{job}} {{anomaly_stat}} {{instance}}"),
            steps=SCORE,
            width=12,
        ),
        lines(
            "Worth an alert",
            "In thresholds of its alert budget: 1 is an alert, 0 is held back.",
            Query(f"otel_aiops_alert_ratio{{{_PICK}}}", "{{job}} {{anomaly_stat}} {{instance}}"),
            steps=((None, "green"), (1, "red")),
            width=12,
        ),
        Panel(
            "states",
            "What makes the score",
            "While the series is over its threshold or has an alert.",
            (
                Query(
                    f"max by (job, anomaly_channel) (otel_aiops_anomaly_info{{{_PICK}}})", "{{job}} {{anomaly_channel}}"
                ),
            ),
            width=12,
        ),
        lines(
            "Probability",
            "One minus the share of the series' normal points that score at least as high.",
            Query(f"otel_aiops_anomaly_probability{{{_PICK}}}", "{{job}} {{anomaly_stat}} {{instance}}"),
            unit="percentunit",
            width=12,
        ),
        Row("Forecast"),
        Panel(
            "lines",
            "What is expected at the end of the horizon",
            "Of the chosen series that `forecast` selects in the configuration; the command draws the whole way.",
            (
                Query(f"max(otel_aiops_forecast_upper{{{_PICK}}})", "upper"),
                Query(f"min(otel_aiops_forecast_lower{{{_PICK}}})", "lower"),
                Query(f"otel_aiops_forecast_expected{{{_PICK}}}", "expected in {{horizon}} {{instance}}"),
            ),
            band=_BAND,
            width=12,
        ),
        lines(
            "Time to the limit",
            "Absent while the limit is not likely reached within the horizon.",
            Query(
                f"otel_aiops_forecast_exhaustion_time_seconds{{{_PICK}}}",
                "{{job}} {{direction}} {{limit}} {{instance}}",
            ),
            unit="s",
            width=12,
        ),
        Row("All series of the metric"),
        Panel(
            "table",
            "By score",
            "Every emitted series of the metric with its labels.",
            (Query(f"topk(100, otel_aiops_anomaly_score{{{_PICK}}})", "score"),),
            steps=SCORE,
            hidden=("anomaly_model",),
            width=24,
        ),
    ),
)
