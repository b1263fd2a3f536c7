"""What is done about incidents: what waits for people, what was done, whether it helped, what Alertmanager takes."""

from otel_aiops.dashboards.board import (
    NONE_IS_GOOD,
    OURS,
    Board,
    Panel,
    Query,
    Row,
    Variable,
    instances,
    lines,
    quantiles,
    stat,
)

_RUNS = "otel_aiops_response_runs_total"
_PLAYBOOK = f'{OURS}, playbook=~"$playbook"'


def _happened(outcome: str, by: str, *, over: str = "$__range") -> str:
    """How often playbooks came to an outcome in a time."""
    return f'sum{by} (increase({_RUNS}{{{_PLAYBOOK}, outcome=~"{outcome}"}}[{over}]))'


BOARD = Board(
    name="responses",
    title="otel-aiops: responses",
    says="Playbooks: what waits for approval, what was done and refused, whether it helped, and the audit of it.",
    variables=(
        instances("otel_aiops_build_info"),
        Variable("playbook", "Playbook", f"label_values({_RUNS}, playbook)"),
    ),
    items=(
        stat(
            "Wait for approval",
            "Steps that nobody has approved or refused. `otel-aiops responses list` has the words.",
            f"sum(otel_aiops_response_waiting{{{OURS}}})",
            steps=((None, "green"), (1, "yellow")),
        ),
        stat(
            "Longest wait",
            "Of the steps that wait now; they expire after what their guard says, 30 minutes without it.",
            f"max(otel_aiops_response_waiting_longest_seconds{{{OURS}}})",
            unit="s",
            steps=((None, "green"), (300, "yellow"), (600, "red")),
        ),
        stat("Go on", "Playbooks that are not at their end.", f"sum(otel_aiops_response_active{{{OURS}}})"),
        stat("Done", "Steps that were done in the time shown.", _happened("done", "")),
        stat(
            "Failed or did not help",
            "Steps that failed, of which it is not known, or after which the incident went on.",
            _happened("failed|unknown|not_recovered", ""),
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Stopped",
            "How many otel-aiops have all responses stopped by somebody.",
            f"sum(otel_aiops_response_stopped{{{OURS}}})",
            steps=NONE_IS_GOOD,
        ),
        Row("What playbooks do"),
        lines(
            "By outcome",
            "Steps in each five minutes. `asked` waits for people; `recovered` and `not_recovered` follow on `done`.",
            Query(_happened(".*", " by (outcome)", over="5m"), "{{outcome}}"),
            width=12,
        ),
        lines(
            "Done, by playbook",
            "Steps that were done in each five minutes, by what they are.",
            Query(_happened("done", " by (playbook, kind)", over="5m"), "{{playbook}} {{kind}}"),
            width=12,
        ),
        Panel(
            "table",
            "Playbooks",
            "In the time shown, by kind of step. `otel-aiops playbooks test` says what one would do now, and why not.",
            (
                Query(_happened("done", " by (playbook, kind)"), "done"),
                Query(_happened("dry_run", " by (playbook, kind)"), "dry run"),
                Query(_happened("asked", " by (playbook, kind)"), "asked"),
                Query(_happened("refused", " by (playbook, kind)"), "refused"),
                Query(_happened("failed|unknown", " by (playbook, kind)"), "failed"),
                Query(_happened("recovered", " by (playbook, kind)"), "helped"),
                Query(_happened("not_recovered", " by (playbook, kind)"), "did not help"),
            ),
            width=16,
        ),
        lines(
            "Enabled and stopped",
            "1 is yes. Where responses are not enabled, all of them are dry runs.",
            Query(f"otel_aiops_response_enabled{{{OURS}}}", "enabled {{instance}}"),
            Query(f"otel_aiops_response_stopped{{{OURS}}}", "stopped {{instance}}"),
        ),
        Row("How long it takes"),
        lines(
            "Until it is done",
            "In the time shown: from when a step was to be done until it was done, waiting for approval included.",
            *quantiles("otel_aiops_response_delay_seconds", "", "", window="$__range"),
            unit="s",
        ),
        lines(
            "Until it has helped",
            "In the time shown: from when a step was done until it was seen to have helped. Empty where none was.",
            *quantiles("otel_aiops_response_recovery_seconds", "", "", window="$__range"),
            unit="s",
        ),
        lines(
            "Waiting",
            "Steps that wait for approval, and playbooks that go on.",
            Query(f"otel_aiops_response_waiting{{{OURS}}}", "wait for approval {{instance}}"),
            Query(f"otel_aiops_response_active{{{OURS}}}", "go on {{instance}}"),
        ),
        Row("Alertmanager"),
        lines(
            "Alerts that it has of us",
            "Incidents and predictions that fire. Empty without `alertmanager.to`.",
            Query(f"otel_aiops_alertmanager_firing{{{OURS}}}", "{{alertmanager}}"),
            Query(f"otel_aiops_alertmanager_left_out{{{OURS}}}", "left out {{instance}}"),
        ),
        lines(
            "Posted to it",
            "A minute. Missed: what began and ended while it was away.",
            *(
                Query(
                    "60 * sum by (alertmanager) "
                    f"(rate(otel_aiops_alertmanager_{what}_total{{{OURS}}}[$__rate_interval]))",
                    f"{words} {{{{alertmanager}}}}",
                )
                for what, words in (
                    ("sent", "taken"),
                    ("failures", "failed"),
                    ("refused", "refused"),
                    ("missed", "missed"),
                )
            ),
        ),
        lines(
            "Told of by webhook",
            "Alerts in the time shown, by what became of them; `ours` came back and begin playbooks `on: notified`.",
            Query(
                f"sum by (sender, outcome) (increase(otel_aiops_alertmanager_received_total{{{OURS}}}[$__range]))",
                "{{sender}} {{outcome}}",
            ),
        ),
        Row("Audit"),
        lines(
            "Lines that hold",
            "Of the chain of hashes, at the newest look; it never gets shorter.",
            Query(f"otel_aiops_response_audit_lines{{{OURS}}}", "{{instance}}"),
            width=12,
        ),
        lines(
            "Broken",
            "1 where a line does not follow from those before it. `otel-aiops audit verify` says which.",
            Query(f"otel_aiops_response_audit_broken{{{OURS}}}", "{{instance}}"),
            steps=NONE_IS_GOOD,
            width=12,
        ),
    ),
)
