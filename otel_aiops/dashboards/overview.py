"""The first dashboard to open: what is wrong now, what is foreseen, what was spent of the alert budgets."""

from otel_aiops.dashboards.board import (
    NONE_IS_GOOD,
    OURS,
    SCORE,
    Board,
    Panel,
    Query,
    Row,
    instances,
    lines,
    stat,
)

BOARD = Board(
    name="overview",
    title="otel-aiops: overview",
    says="Incidents now and predicted, services that are unusual, and the alert budget.",
    variables=(instances("otel_aiops_build_info"),),
    items=(
        stat(
            "Open incidents",
            "Incidents that are open or acknowledged.",
            f"sum(otel_aiops_incidents_open{{{OURS}}})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Predicted",
            "Predictions that are not decided yet. `otel-aiops predictions` has them.",
            f"sum(otel_aiops_predictions_standing{{{OURS}}})",
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Series with an alert",
            "Series that are worth an alert by their budget now.",
            f"sum(otel_aiops_alerts_active{{{OURS}}})",
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Unusual services",
            "Services of which at least one series is over its threshold.",
            "count(max by (job) (otel_aiops_service_anomaly_score) >= 1) or vector(0)",
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Budget used, most",
            "Alerts of the last week by those that the objective may have; the objective that used most.",
            f"max(otel_aiops_budget_actual{{{OURS}}} / otel_aiops_budget_wanted)",
            unit="percentunit",
            steps=((None, "green"), (1, "yellow"), (1.5, "red")),
        ),
        stat(
            "Series scored",
            "Series of all services that have a score.",
            "sum(otel_aiops_service_series_scored)",
        ),
        Row("Incidents"),
        Panel(
            "table",
            "Incidents now",
            "`service` is that of the likeliest cause. `otel-aiops incidents show ID` has evidence and suspects.",
            (Query(f"max by (incident_id, service, severity, state) (otel_aiops_incident_active{{{OURS}}})"),),
            width=12,
        ),
        lines(
            "Incidents opened",
            "In the hour before, by severity and state (predicted ones too).",
            Query(
                f"sum by (severity, state) (increase(otel_aiops_incidents_opened_total{{{OURS}}}[1h]))",
                "{{severity}} {{state}}",
            ),
            width=12,
        ),
        Row("Services"),
        Panel(
            "states",
            "Strangest series of each service",
            "The highest score of the live series of a service; 1 is the threshold.",
            (Query("topk(20, max by (job) (otel_aiops_service_anomaly_score))", "{{job}}"),),
            steps=SCORE,
            width=12,
        ),
        lines(
            "Services as a whole",
            "How unusual the series of a service are together, also when none is by itself; 1 is the threshold.",
            Query("topk(10, max by (job) (otel_aiops_service_joint_score))", "{{job}}"),
            steps=((None, "green"), (1, "red")),
            width=12,
        ),
        lines(
            "Share of series that are unusual",
            "Series over their threshold by those that have a score.",
            Query(
                "sum by (job) (otel_aiops_service_series_anomalous) / sum by (job) (otel_aiops_service_series_scored)",
                "{{job}}",
            ),
            unit="percentunit",
        ),
        Panel(
            "bars",
            "Strangest series now",
            "The ten highest scores; a series is shown for a while after it was over its threshold.",
            (
                Query(
                    "topk(10, max by (job, anomaly_metric_name, anomaly_stat) (otel_aiops_anomaly_score))",
                    "{{job}} {{anomaly_metric_name}} {{anomaly_stat}}",
                ),
            ),
            steps=SCORE,
        ),
        lines(
            "What makes the scores",
            "Series over their threshold or with an alert, by what is strange about them.",
            Query("count by (anomaly_channel) (otel_aiops_anomaly_info)", "{{anomaly_channel}}"),
        ),
        Row("Alert budget"),
        lines(
            "Alerts of the last week",
            "What each objective had, and what it may have.",
            Query(f"otel_aiops_budget_actual{{{OURS}}}", "{{objective}}"),
            Query(f"otel_aiops_budget_wanted{{{OURS}}}", "{{objective}}, budget"),
        ),
        lines(
            "Thresholds",
            "The threshold of each objective, in alert scores, before verdicts. It follows the budget.",
            Query(f"otel_aiops_budget_threshold{{{OURS}}}", "{{objective}}"),
        ),
        lines(
            "Series with an alert",
            "By objective.",
            Query(f"otel_aiops_alerts_active{{{OURS}}}", "{{objective}}"),
        ),
    ),
)
