"""What is to come: when limits are reached, which incidents are predicted, and how often such predictions came true."""

from otel_aiops.dashboards.board import OURS, Board, Panel, Query, Row, Variable, instances, lines, stat

_JOB = 'job=~"$job"'
_SOON = ((None, "red"), (86_400, "yellow"), (604_800, "green"))
_SERIES = "job, anomaly_metric_name, instance, horizon, limit, direction"

BOARD = Board(
    name="forecast",
    title="otel-aiops: forecast",
    says="Time to exhaustion, forecasts, predicted incidents and their reliability.",
    variables=(
        instances("otel_aiops_build_info"),
        Variable("job", "Service", "label_values(otel_aiops_forecast_expected, job)"),
    ),
    items=(
        stat(
            "Soonest at its limit",
            "Of all series that `forecast` selects.",
            f"min(otel_aiops_forecast_exhaustion_time_seconds{{{_JOB}}})",
            unit="s",
            steps=_SOON,
        ),
        stat(
            "Series that reach theirs",
            "Within their horizon, with a probability of 80 % or more.",
            f"count(otel_aiops_forecast_exhaustion_probability{{{_JOB}}} >= 0.8) or vector(0)",
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Standing predictions",
            "Predicted incidents that are not decided.",
            f"sum(otel_aiops_predictions_standing{{{OURS}}})",
        ),
        stat(
            "Came true",
            "Of the predictions that were decided since the start.",
            f"sum(otel_aiops_predictions_hit_total{{{OURS}}}) / (sum(otel_aiops_predictions_hit_total{{{OURS}}}) "
            f"+ (sum(otel_aiops_predictions_missed_total{{{OURS}}}) or vector(0)))",
            unit="percentunit",
        ),
        stat(
            "Median lead time",
            "From a prediction until it came true, since the start.",
            f"histogram_quantile(0.5, sum by (le) (otel_aiops_prediction_lead_time_seconds_bucket{{{OURS}}}))",
            unit="s",
        ),
        stat(
            "Types learned",
            "Types of incidents that are predicted by what came before them; each needs at least 12 incidents.",
            f"sum(otel_aiops_precursors_models{{{OURS}}})",
        ),
        Row("Limits"),
        Panel(
            "table",
            "Time to exhaustion",
            "Series with a limit: probability that it is reached within the horizon, and when.",
            (
                Query(f"max by ({_SERIES}) (otel_aiops_forecast_exhaustion_probability{{{_JOB}}})", "probability"),
                Query(f"min by ({_SERIES}) (otel_aiops_forecast_exhaustion_time_seconds{{{_JOB}}})", "time left"),
            ),
            units={"probability": "percentunit", "time left": "s"},
            width=12,
        ),
        lines(
            "Time to exhaustion",
            "A line that falls as fast as time passes is a forecast that holds.",
            Query(
                f"otel_aiops_forecast_exhaustion_time_seconds{{{_JOB}}}",
                "{{job}} {{anomaly_metric_name}} {{direction}} {{limit}} {{instance}}",
            ),
            unit="s",
            width=12,
        ),
        lines(
            "Probability of exhaustion",
            "Share of the possible futures that reach the limit within the horizon.",
            Query(
                f"otel_aiops_forecast_exhaustion_probability{{{_JOB}}}",
                "{{job}} {{anomaly_metric_name}} {{direction}} {{limit}} {{instance}}",
            ),
            unit="percentunit",
            width=12,
        ),
        lines(
            "Width of the intervals",
            "Of what is forecast for the end of the horizon, by how much of the forecast itself; less is better.",
            Query(
                f"(otel_aiops_forecast_upper{{{_JOB}}} - otel_aiops_forecast_lower{{{_JOB}}}) "
                f"/ abs(otel_aiops_forecast_expected{{{_JOB}}})",
                "{{job}} {{anomaly_metric_name}} {{horizon}} {{instance}}",
            ),
            unit="percentunit",
            width=12,
        ),
        Row("Predicted incidents"),
        lines(
            "Made, come true, missed",
            "Since the start, by what is predicted.",
            Query(f"sum by (what) (otel_aiops_predictions_made_total{{{OURS}}})", "{{what}} made"),
            Query(f"sum by (what) (otel_aiops_predictions_hit_total{{{OURS}}})", "{{what}} came true"),
            Query(f"sum by (what) (otel_aiops_predictions_missed_total{{{OURS}}})", "{{what}} missed"),
        ),
        Panel(
            "table",
            "Reliability",
            "Of decided predictions, by tenth of their probability: what they said beside what happened.",
            (
                Query(f"max by (what, bin) (otel_aiops_predictions_reliability_decided{{{OURS}}})", "decided"),
                Query(f"max by (what, bin) (otel_aiops_predictions_reliability_predicted{{{OURS}}})", "said"),
                Query(f"max by (what, bin) (otel_aiops_predictions_reliability_happened{{{OURS}}})", "happened"),
            ),
            units={"said": "percentunit", "happened": "percentunit"},
        ),
        lines(
            "Said less happened",
            "Above 0 they promised too much. Each tenth by itself.",
            Query(
                f"otel_aiops_predictions_reliability_predicted{{{OURS}}} "
                f"- otel_aiops_predictions_reliability_happened{{{OURS}}}",
                "{{what}} from {{bin}}",
            ),
            unit="percentunit",
        ),
    ),
)
