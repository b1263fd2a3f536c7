"""What the data is worth: how much comes, what is bad about it, what drifts, and what fills the table of series."""

from otel_aiops.dashboards.board import OURS, SHARE_IS_BAD, Board, Panel, Query, Row, Variable, instances, lines, stat

_MINE = f'{OURS}, service_name=~"$service"'
_POINTS = ("late", "duplicate", "future", "absent", "stale")

BOARD = Board(
    name="quality",
    title="otel-aiops: data quality and drift",
    says="What comes by service, what is bad about it, drift of the input, warm-up and cardinality.",
    variables=(
        instances("otel_aiops_build_info"),
        Variable("service", "Service", f"label_values(otel_aiops_quality_points_total{{{OURS}}}, service_name)"),
    ),
    items=(
        stat(
            "Points",
            "Points of metrics taken per second.",
            f"sum(rate(otel_aiops_quality_points_total{{{_MINE}}}[$__rate_interval]))",
            unit="cps",
        ),
        stat(
            "With a problem",
            "Problems by points, in the hour before.",
            f"(sum(increase(otel_aiops_quality_problems_total{{{_MINE}}}[1h])) or vector(0)) "
            f"/ sum(increase(otel_aiops_quality_points_total{{{_MINE}}}[1h]))",
            unit="percentunit",
            steps=((None, "green"), (0.02, "yellow"), (0.1, "red")),
        ),
        stat(
            "Latest of all",
            "The service with the largest share of late points since the start.",
            f"max(otel_aiops_quality_late_ratio{{{_MINE}}})",
            unit="percentunit",
            steps=((None, "green"), (0.02, "yellow"), (0.1, "red")),
        ),
        stat(
            "Clock skew, most",
            "How far the newest points of a service are from the clock here.",
            f"max(abs(otel_aiops_quality_clock_skew_seconds{{{_MINE}}}))",
            unit="s",
            steps=((None, "green"), (30, "yellow"), (120, "red")),
        ),
        stat(
            "Drifting metrics",
            "Metrics of services that are not what the model learned from, at the newest look.",
            f'sum(otel_aiops_model_drifts{{{OURS}, kind="input"}})',
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Series by their limit",
            "At the limit new series are refused.",
            f"max(otel_aiops_series_active{{{OURS}}} / otel_aiops_series_limit)",
            unit="percentunit",
            steps=SHARE_IS_BAD,
        ),
        Row("By service"),
        lines(
            "Points taken",
            "Per second. Of 200 services, and of the others together.",
            Query(
                f"topk(15, sum by (service_name) (rate(otel_aiops_quality_points_total{{{_MINE}}}[$__rate_interval])))",
                "{{service_name}}",
            ),
            unit="cps",
        ),
        lines(
            "Problems",
            "Per second: gaps, resets, duplicates, late or future points, two senders under one identity, and others.",
            Query(
                "topk(15, sum by (service_name, problem) "
                f"(rate(otel_aiops_quality_problems_total{{{_MINE}}}[$__rate_interval])))",
                "{{service_name}} {{problem}}",
            ),
            unit="cps",
        ),
        lines(
            "Late points",
            "Share of the points of a service that came after newer ones of their series, since the start.",
            Query(f"topk(15, otel_aiops_quality_late_ratio{{{_MINE}}})", "{{service_name}}"),
            unit="percentunit",
        ),
        lines(
            "Clock skew",
            "How far the newest points are behind the clock here, the least of the last 10 s; below 0: ahead.",
            Query(f"otel_aiops_quality_clock_skew_seconds{{{_MINE}}}", "{{service_name}}"),
            unit="s",
        ),
        lines(
            "Series",
            "Scored series of a service.",
            Query(f"topk(15, otel_aiops_quality_series{{{_MINE}}})", "{{service_name}}"),
        ),
        lines(
            "Not warm yet",
            "Live series that are still learned, or are too sparse to tell.",
            Query("sum by (job, reason) (otel_aiops_series_warming)", "{{job}} {{reason}}"),
        ),
        Row("Drift"),
        lines(
            "Farthest from what was learned",
            "In spreads, beyond what days differ from each other by themselves. From 0.5 on it is drift.",
            Query(f"topk(15, otel_aiops_model_drift_effect{{{_MINE}}})", "{{service_name}} {{metric}}"),
            steps=((None, "green"), (0.5, "red")),
        ),
        lines(
            "Share of series that have drifted",
            "Of a metric of a service.",
            Query(f"topk(15, otel_aiops_model_drift_share_ratio{{{_MINE}}})", "{{service_name}} {{metric}}"),
            unit="percentunit",
        ),
        lines(
            "Looks in a row",
            "An hour apart; from 24 on a drift lasts.",
            Query(f"topk(15, otel_aiops_model_drift_looks{{{_MINE}}})", "{{service_name}} {{metric}}"),
            steps=((None, "green"), (24, "red")),
        ),
        Row("Points and series"),
        lines(
            "Points that are not scored",
            "Per second, by reason: late, seen before, from the future, without a number, or the end of a series.",
            *(
                Query(f"sum(rate(otel_aiops_points_{what}_total{{{OURS}}}[$__rate_interval]))", what)
                for what in _POINTS
            ),
            unit="cps",
        ),
        lines(
            "Unreadable or left out",
            "Per second, by reason.",
            Query(
                f"sum by (reason) (rate(otel_aiops_points_rejected_total{{{OURS}}}[$__rate_interval]))", "{{reason}}"
            ),
            Query(
                f"sum by (reason) (rate(otel_aiops_signals_left_out_total{{{OURS}}}[$__rate_interval]))",
                "left out: {{reason}}",
            ),
            Query(
                f"sum by (reason) (rate(otel_aiops_signals_mended_total{{{OURS}}}[$__rate_interval]))",
                "mended: {{reason}}",
            ),
            unit="cps",
        ),
        lines(
            "Series",
            "Known now, and at most.",
            Query(f"sum(otel_aiops_series_active{{{OURS}}})", "known"),
            Query(f"sum(otel_aiops_series_limit{{{OURS}}})", "limit"),
        ),
        Panel(
            "table",
            "What fills the table",
            "While the limit is reached: the metric with most series, and its attribute with most values.",
            (Query(f"max by (metric, attribute) (otel_aiops_series_worst{{{OURS}}})", "series"),),
        ),
        lines(
            "New, refused, reclaimed",
            "Series seen for the first time, points refused at the limit, silent series that made room; per second.",
            Query(f"sum(rate(otel_aiops_series_created_total{{{OURS}}}[$__rate_interval]))", "new"),
            Query(f"sum(rate(otel_aiops_series_refused_total{{{OURS}}}[$__rate_interval]))", "points refused"),
            Query(f"sum(rate(otel_aiops_series_reclaimed_total{{{OURS}}}[$__rate_interval]))", "reclaimed"),
            unit="cps",
        ),
        lines(
            "Attributes dropped or hashed",
            "By `governance`, before anything is stored; per second.",
            Query(
                f"sum by (action) (rate(otel_aiops_governance_attributes_total{{{OURS}}}[$__rate_interval]))",
                "{{action}}",
            ),
            unit="cps",
        ),
    ),
)
