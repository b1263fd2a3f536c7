"""How the models do: drift, their own behaviour, budgets, performance, and the lifecycle of their versions."""

from otel_aiops.dashboards.board import (
    NONE_IS_GOOD,
    OURS,
    SHARE_IS_GOOD,
    Board,
    Panel,
    Query,
    Row,
    instances,
    lines,
    stat,
)

_DRIFTED = f"(otel_aiops_model_drift_looks{{{OURS}}} > 0)"
_ON = "and on (instance, service_name, metric)"
_BUDGET = ((None, "green"), (1, "yellow"), (1.5, "red"))

BOARD = Board(
    name="models",
    title="otel-aiops: models",
    says="Drift, the model's own behaviour, budgets, performance, and the versions that run or are made.",
    variables=(instances("otel_aiops_build_info"),),
    since="now-7d",
    items=(
        stat(
            "Problems",
            "What is wrong at the newest look. `otel-aiops models health` has the words.",
            f"max(otel_aiops_model_problems{{{OURS}}})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Drifts that last",
            "Drifts of the input or of the concept that were there at every look of about a day.",
            f"sum(otel_aiops_model_drifts_persistent{{{OURS}}})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Budget used, most",
            "Alerts of the last week by those that the objective may have; the objective that used most.",
            f"max(otel_aiops_model_budget_used_ratio{{{OURS}}})",
            unit="percentunit",
            steps=_BUDGET,
        ),
        stat(
            "Precision expected without labels",
            "Share of true alerts to be expected from calibrated probabilities. It can be wrong where series fail "
            "together, and above 0.999 the promise is extrapolated.",
            f"min(otel_aiops_model_expected_precision_ratio{{{OURS}}})",
            unit="percentunit",
            steps=SHARE_IS_GOOD,
        ),
        stat(
            "Precision by verdicts",
            "Share of true alerts among those with a verdict. Nothing is shown without verdicts.",
            f'min(otel_aiops_model_precision_ratio{{{OURS}, bound="estimate"}})',
            unit="percentunit",
            steps=SHARE_IS_GOOD,
        ),
        stat(
            "Newest look",
            "How old the newest look is, by event time.",
            f"time() - min(otel_aiops_model_looked_seconds{{{OURS}}})",
            unit="s",
            steps=((None, "green"), (7200, "yellow"), (14400, "red")),
        ),
        Row("Drift"),
        lines(
            "Drifts now",
            "Metrics of services whose values are not those that were learned from (input), and promises of scores "
            "that are not kept any more (concept), whether they last or not.",
            Query(f"sum by (kind) (otel_aiops_model_drifts{{{OURS}}})", "{{kind}}"),
            Query(f"sum by (kind) (otel_aiops_model_drifts_persistent{{{OURS}}})", "{{kind}}, lasting"),
        ),
        lines(
            "Farthest from what was learned",
            "Distance of live values from the same times of day or week of the reference, in spreads, beyond what days "
            "differ from each other by themselves. From 0.5 on it is drift.",
            Query(f"topk(10, otel_aiops_model_drift_effect{{{OURS}}})", "{{service_name}} {{metric}}"),
            steps=((None, "green"), (0.5, "red")),
        ),
        Panel(
            "table",
            "What has drifted",
            "Metrics of services that have drifted now: how far, how many of their series, for how many looks.",
            (
                Query(f"otel_aiops_model_drift_effect{{{OURS}}} {_ON} {_DRIFTED}", "effect (spreads)"),
                Query(f"otel_aiops_model_drift_share_ratio{{{OURS}}} {_ON} {_DRIFTED}", "share of series"),
                Query(f"otel_aiops_model_drift_looks{{{OURS}}} > 0", "looks in a row"),
            ),
            steps=((None, "green"), (0.5, "yellow"), (1, "red")),
            units={"share of series": "percentunit"},
            hidden=("job",),
        ),
        Row("The model's own behaviour"),
        lines(
            "Points over the threshold",
            "Share of the points that scored over the threshold lately, and what is usual from the model's own past.",
            Query(f'otel_aiops_model_rate{{{OURS}, what="scores"}}', "now {{instance}}"),
            Query(f'otel_aiops_model_rate_usual{{{OURS}, what="scores"}}', "usual {{instance}}"),
            unit="percentunit",
        ),
        lines(
            "Alerts of series in a day",
            "Alerts of the last day, and how many are usual.",
            Query(f'otel_aiops_model_rate{{{OURS}, what="alerts"}}', "now {{instance}}"),
            Query(f'otel_aiops_model_rate_usual{{{OURS}, what="alerts"}}', "usual {{instance}}"),
        ),
        lines(
            "How unusual these rates are",
            "In robust deviations of the model's own past; 4 and twice as often is unusual.",
            Query(f"otel_aiops_model_rate_deviation{{{OURS}}}", "{{what}} {{instance}}"),
            steps=((None, "green"), (4, "red")),
        ),
        lines(
            "Budget used",
            "Alerts of the last week by those that each objective may have; 100 % is the promise.",
            Query(f"otel_aiops_model_budget_used_ratio{{{OURS}}}", "{{objective}}"),
            unit="percentunit",
            steps=((None, "green"), (1.5, "red")),
        ),
        lines(
            "What probabilities promise",
            "How many times as often as promised a normal point reaches a probability; 1 is right.",
            Query(f"otel_aiops_model_promise_kept{{{OURS}}}", "{{level}} or more"),
            steps=((None, "green"), (3, "red")),
        ),
        lines(
            "Calibration error",
            "Largest distance of the distribution of probabilities from the uniform one, since the last order.",
            Query(f"otel_aiops_model_calibration_error_ratio{{{OURS}}}", "{{role}}"),
        ),
        Row("Performance"),
        Panel(
            "bars",
            "Self-test: faults found",
            "Share of the faults put into copies of real series that were found, by kind.",
            (Query(f"min by (fault) (otel_aiops_model_fault_recall_ratio{{{OURS}}})", "{{fault}}"),),
            unit="percentunit",
            steps=SHARE_IS_GOOD,
            height=9,
        ),
        lines(
            "Precision by verdicts",
            "Share of true alerts among those with a verdict, with its 90 % interval.",
            Query(f"otel_aiops_model_precision_ratio{{{OURS}}}", "{{bound}}"),
            unit="percentunit",
            height=9,
        ),
        lines(
            "False and missed alerts a week, expected without labels",
            "From calibrated probabilities and the self-test; beside them the budgets.",
            Query(f"otel_aiops_model_expected_false_alerts{{{OURS}}}", "false {{instance}}"),
            Query(f"otel_aiops_model_expected_missed{{{OURS}}}", "missed {{instance}}"),
            Query(f"sum by (instance) (otel_aiops_budget_wanted{{{OURS}}})", "budget {{instance}}"),
            height=9,
        ),
        lines(
            "Verdicts",
            "What people said of alerts of the last weeks: true, false, or missed. Few make the precision uncertain.",
            Query(f"otel_aiops_model_verdicts{{{OURS}}}", "{{verdict}}"),
            width=12,
        ),
        lines(
            "Precision and recall, expected without labels",
            "Of alerts by how rare their probabilities are by chance, of faults by the newest self-test.",
            Query(f"otel_aiops_model_expected_precision_ratio{{{OURS}}}", "precision"),
            Query(f"otel_aiops_model_expected_recall_ratio{{{OURS}}}", "recall"),
            unit="percentunit",
            width=12,
        ),
        Row("Versions"),
        Panel(
            "table",
            "Which versions run",
            "The champion, and a shadow, canary or the former champion beside it (`otel-aiops rollout show`).",
            (Query(f"otel_aiops_model_info{{{OURS}}}"),),
            hidden=("job",),
        ),
        lines(
            "Alerts of versions since the last order",
            "Alerts of each version that runs; those of a shadow nobody saw.",
            Query(f"otel_aiops_model_alerts{{{OURS}}}", "{{role}}"),
        ),
        lines(
            "Points of versions over the threshold",
            "Share since the last order: what a challenger would do beside what the champion does.",
            Query(f"otel_aiops_model_over_ratio{{{OURS}}}", "{{role}}"),
            unit="percentunit",
        ),
        lines(
            "Runs of the lifecycle",
            "Retrainings of the day before by outcome: registered, refused at the gate, failed.",
            Query(
                f"sum by (outcome, reason) (increase(otel_aiops_lifecycle_runs_total{{{OURS}}}[1d]))",
                "{{outcome}} ({{reason}})",
            ),
        ),
        Panel(
            "states",
            "Retraining due and running",
            "Reasons for which a retraining is due, and whether a run goes on.",
            (
                Query(f"max by (reason) (otel_aiops_lifecycle_run_due{{{OURS}}})", "due: {{reason}}"),
                Query(f"max(otel_aiops_lifecycle_run_active{{{OURS}}})", "running"),
            ),
            steps=((None, "text"), (1, "blue")),
        ),
        lines(
            "Orders that failed",
            "Rollouts that failed in the day before, by action, and times that the registry was not told.",
            Query(f"sum by (action) (increase(otel_aiops_rollout_failures_total{{{OURS}}}[1d]))", "{{action}}"),
            Query(f"sum(increase(otel_aiops_registry_failures_total{{{OURS}}}[1d]))", "registry not told"),
        ),
    ),
)
