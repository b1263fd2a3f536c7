"""One incident, or all that are open: since when, how severe, which services and series are involved."""

from otel_aiops.dashboards.board import OURS, SCORE, Board, Panel, Query, Row, Variable, instances, lines, stat

_ONE = f'otel_aiops_incident_active{{{OURS}, incident_id=~"$incident"}}'


def _suspected(expression: str) -> str:
    """Of an expression with a label `job` that part whose service is the likeliest cause of the chosen incident."""
    named = f'label_replace({expression}, "service", "$1", "job", "(?:.*/)?([^/]+)")'
    return f"{named} and on (service) max by (service) ({_ONE})"


BOARD = Board(
    name="incident",
    title="otel-aiops: incident",
    says="Open incidents: timeline, severity, the likeliest cause and the series behind it.",
    variables=(
        instances("otel_aiops_build_info"),
        Variable("incident", "Incident", f"label_values(otel_aiops_incident_active{{{OURS}}}, incident_id)"),
    ),
    since="now-6h",
    items=(
        Panel(
            "table",
            "What is known",
            "The chosen incidents while they are open. Suspects and evidence: `otel-aiops incidents show ID`.",
            (Query(f"max by (incident_id, service, severity, state) ({_ONE})"),),
            width=12,
            height=6,
        ),
        stat(
            "Opened",
            "Incidents that were opened in the time shown, predicted ones too.",
            f"sum(increase(otel_aiops_incidents_opened_total{{{OURS}}}[$__range]))",
        ),
        stat(
            "Open now",
            "Incidents that are open or acknowledged.",
            f"sum(otel_aiops_incidents_open{{{OURS}}})",
            steps=((None, "green"), (1, "red")),
        ),
        stat(
            "Median time to detect",
            "From the start of an incident until it was opened, over the time shown.",
            "histogram_quantile(0.5, sum by (le) "
            f"(increase(otel_aiops_incident_detection_delay_seconds_bucket{{{OURS}}}[$__range])))",
            unit="s",
        ),
        Row("Timeline"),
        Panel(
            "states",
            "Severity and likeliest cause",
            "A new line begins when severity or likeliest cause change.",
            (
                Query(
                    f"max by (incident_id, severity, service, state) ({_ONE})",
                    "{{incident_id}} {{severity}} {{service}} {{state}}",
                ),
            ),
            steps=((None, "green"), (1, "red")),
            width=24,
        ),
        Row("The likeliest cause"),
        lines(
            "Its strangest series",
            "The highest score of the series of the suspected service; 1 is the threshold.",
            Query(_suspected("max by (job) (otel_aiops_service_anomaly_score)"), "{{job}}"),
            steps=SCORE,
        ),
        lines(
            "Its unusual series",
            "How many series of the suspected service are over their threshold.",
            Query(_suspected("sum by (job) (otel_aiops_service_series_anomalous)"), "{{job}}"),
        ),
        lines(
            "As a whole",
            "How unusual the series of the suspected service are together.",
            Query(_suspected("max by (job) (otel_aiops_service_joint_score)"), "{{job}}"),
            steps=((None, "green"), (1, "red")),
        ),
        Row("All services meanwhile"),
        lines(
            "Strangest series of each service",
            "Who else is hit, and who was first.",
            Query("topk(15, max by (job) (otel_aiops_service_anomaly_score))", "{{job}}"),
            steps=SCORE,
            width=12,
        ),
        Panel(
            "table",
            "Unusual series",
            "Series over their threshold now. `otel-aiops explain` says why, in words.",
            (
                Query(
                    "max by (job, anomaly_metric_name, anomaly_stat) (otel_aiops_anomaly_score >= 1)",
                    "score",
                ),
            ),
            steps=SCORE,
            width=12,
        ),
    ),
)
