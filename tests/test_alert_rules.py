"""Alert rules ask for what is emitted, fire when they should and only then, and lead to a runbook."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import opentelemetry.semconv._incubating.metrics as conventions
import pytest
import yaml

from otel_aiops.detect.serving import Action
from otel_aiops.incidents.incident import Severity
from otel_aiops.lifecycle.needs import KINDS
from otel_aiops.lifecycle.runs import FAILED, REFUSED, REGISTERED
from otel_aiops.otlp.prometheus import label_name
from otel_aiops.otlp.semconv import METRICS
from otel_aiops.pipeline import Pipeline, PipelineConfig
from tests import reference
from tests.promql import COMMON, EMITTED, checked
from tests.servers import require
from tests.tools.prometheus import promtool

ROOT = Path(__file__).parent.parent
RULES = sorted((ROOT / "grafana" / "alerts").glob("*.rules.yaml"))
RUNBOOKS = ROOT / "otel_aiops" / "runbooks"
PAGE = "http://localhost:9464/runbooks/"
DOMAINS = [path for path in RULES if path.name.startswith("domain-")]
OWN = [path for path in RULES if path not in DOMAINS]
SOURCE = re.compile(r'anomaly_metric_name(=~?)"([^"]+)"')
STAT = re.compile(r'anomaly_stat(=~?)"([^"]*)"')
CHECK_S = 240  # promtool steps through days

# Names that the Python package of the conventions does not have: runtimes of other languages, and receivers of the
# Collector. Sources: semantic-conventions, model/jvm and model/go; opentelemetry-collector-contrib, metadata.yaml of
# receivers; opentelemetry-collector, documentation.md of exporterhelper, receiverhelper, processorhelper, telemetry.
ELSEWHERE = {
    *(f"system.cpu.load_average.{span}" for span in ("1m", "5m", "15m")),
    "jvm.memory.used",
    "jvm.memory.committed",
    "jvm.memory.used_after_last_gc",
    "jvm.gc.duration",
    "jvm.thread.count",
    "jvm.cpu.recent_utilization",
    "jvm.class.count",
    "jvm.class.loaded",
    "go.goroutine.count",
    "go.memory.used",
    "go.memory.allocated",
    "go.memory.allocations",
    "go.memory.gc.goal",
    "go.schedule.duration",
    "kafka.consumer_group.lag",
    "kafka.consumer_group.lag_sum",
    "rabbitmq.message.current",
    "k8s.container.cpu_limit_utilization",
    "k8s.container.memory_limit_utilization",
    "k8s.container.restarts",
    "k8s.deployment.available",
    "k8s.hpa.current_replicas",
    "k8s.volume.available",
    "otelcol_exporter_queue_size",
    "otelcol_exporter_send_failed_spans",
    "otelcol_exporter_send_failed_log_records_total",
    "otelcol_exporter_enqueue_failed_metric_points",
    "otelcol_exporter_sent_spans",
    "otelcol_receiver_accepted_spans",
    "otelcol_receiver_refused_spans",
    "otelcol_receiver_failed_metric_points",
    "otelcol_processor_incoming_items",
    "otelcol_process_memory_rss",
    "otelcol_process_cpu_seconds",
}


def rules_of(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def each(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


@cache
def known() -> dict[str, str]:
    """Metrics of the semantic conventions: name → type (counter, updowncounter, gauge, histogram), or "" of others."""
    found = dict.fromkeys(ELSEWHERE, "")
    for module in pkgutil.iter_modules(conventions.__path__):
        for name, value in vars(importlib.import_module(f"{conventions.__name__}.{module.name}")).items():
            if name.isupper() and isinstance(value, str):
                found[value] = ""
            elif name.startswith("create_") and inspect.isfunction(value):
                kind = re.search(r"\.create_(?:observable_)?(\w+)\(|-> (\w+):", inspect.getsource(value))
                told = re.search(r'name=([A-Z0-9_]+|"[^"]+")', inspect.getsource(value))
                if kind and told:
                    constant = told[1].strip('"')
                    found[getattr(inspect.getmodule(value), constant, constant)] = (kind[1] or kind[2]).replace("_", "")
    return found


def sources(expression: str) -> Iterator[tuple[str, re.Pattern[str], re.Pattern[str]]]:
    """(as written, pattern of names, pattern of stats) of each selector of scores."""
    for selector in re.findall(r"otel_aiops_anomaly_score\{([^}]*)\}", expression):
        (sign, name), (_, stat) = SOURCE.findall(selector)[0], STAT.findall(selector)[0]
        yield name, re.compile(re.escape(name) if sign == "=" else name), re.compile(stat)


def test_there_are_enough() -> None:
    assert sum(len(rules_of(path)) for path in OWN) >= 25
    assert sum(len(rules_of(path)) for path in DOMAINS) >= 40
    names = [rule["alert"] for path in RULES for rule in rules_of(path)]
    assert len(set(names)) == len(names)


@each(RULES)
def test_rules_ask_for_what_is_emitted(path: Path) -> None:
    for rule in rules_of(path):
        assert checked(rule["expr"]), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info", "{{ $labels.severity }}")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


@each(RULES)
def test_texts_use_labels_that_the_expression_leaves(path: Path) -> None:
    for rule in rules_of(path):
        grouped = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        left = {name.strip() for one in grouped for name in one.split(",")} if grouped else COMMON
        if not path.name.startswith("domain-"):
            left |= {name for metric in re.findall(r"otel_aiops_\w+", rule["expr"]) for name in EMITTED.get(metric, ())}
            left |= COMMON
        for text in rule["annotations"].values():
            asked = set(re.findall(r"\$labels\.(\w+)", text))
            assert asked <= left, f"{rule['alert']} names {asked - left}"


@each(DOMAINS)
def test_names_are_those_of_the_conventions(path: Path) -> None:
    """A rule asks for a name that the conventions have, and for a number that such a metric gives."""
    for rule in rules_of(path):
        for written, name, stat in sources(rule["expr"]):
            hits = {one: kind for one, kind in known().items() if name.fullmatch(one)}
            assert hits, f"{rule['alert']}: {written} is no name of the conventions"
            stats = {"histogram": ("rate", "mean", "p95"), "counter": ("rate",), "gauge": ("",), "updowncounter": ("",)}
            for hit, kind in hits.items():
                of_kind = stats.get(kind, ("", "rate", "mean", "p95"))
                assert any(stat.fullmatch(one) for one in of_kind), f"{rule['alert']}: {hit} ({kind}) has no such stat"


@each(RULES)
def test_each_leads_to_its_place_in_a_runbook(path: Path) -> None:
    places = []
    for rule in rules_of(path):
        document, anchor = rule["annotations"]["runbook_url"].split("#")
        assert anchor == rule["alert"].lower() and document.startswith(PAGE)
        text = (RUNBOOKS / document.removeprefix(PAGE)).read_text()
        (section,) = re.findall(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
        assert all(f"**{word}.** " in section for word in ("What it means", "Look", "Do")), rule["alert"]
        places.append(rule["alert"])
    assert re.findall(r"^## (\w+)$", text, re.M) == places, "a runbook has the alerts of its file, in their order"


def test_the_command_of_the_readme_leads_all_alerts_elsewhere(tmp_path: Path) -> None:
    home = shutil.copytree(ROOT / "grafana", tmp_path / "grafana")
    (command,) = re.findall(r"^sed -i .*$", (home / "README.md").read_text(), re.M)
    elsewhere = re.search(rf"\|{PAGE}\|(https://[^|]+/)\|", command)
    assert elsewhere
    subprocess.run(["sh", "-c", command], cwd=home, check=True, timeout=60)
    changed = [*(home / "alerts").glob("*.rules.yaml"), home / "provisioning" / "alerting" / "rules.yaml"]
    found = [url for path in changed for url in re.findall(r"runbook_url: (\S+)#", path.read_text())]
    assert len(found) == 2 * sum(len(rules_of(path)) for path in RULES)
    assert all(url.startswith(elsewhere[1]) and url.endswith(".md") for url in found)


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.name)
def test_runbooks_name_what_there_is(path: Path) -> None:
    text, settings = path.read_text(), [key for key, *_ in reference.settings()]
    for command in re.findall(r"`otel-aiops ([a-z][a-z ]*[a-z])`", text):
        assert f"| `otel-aiops {command} " in reference.commands(), f"there is no command {command}"
    for metric in re.findall(r"`(otel_aiops_\w+)", text):
        assert metric in EMITTED, f"{metric} is not emitted"
    roots = {key.split(".")[0].removesuffix("[]") for key in settings} - {"service"}  # those are attributes
    for key in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)`", text):
        if key.split(".")[0] in roots and not key.endswith(".yaml"):
            assert any(one == key or one.startswith(f"{key}.") for one in settings), f"there is no setting {key}"
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text):
        assert (path.parent / target).exists()
        assert not anchor or anchor in re.sub(r"^## ", "", (path.parent / target).read_text().lower(), flags=re.M)


@each(RULES)
def test_each_has_a_test_in_which_it_fires_and_one_in_which_not(path: Path) -> None:
    tests = yaml.safe_load(path.with_name(path.name.replace(".rules", ".test")).read_text())["tests"]
    fires, quiet = set(), set()
    for test in tests:
        for one in test.get("alert_rule_test", ()):
            (fires if one["exp_alerts"] else quiet).add(one["alertname"])
        for one in test.get("promql_expr_test", ()):
            said = " ".join(sample["labels"] for sample in one["exp_samples"])
            fires |= set(re.findall(r'alertname="(\w+)"', said)) if "ALERTS" in one["expr"] else set()
    names = {rule["alert"] for rule in rules_of(path)}
    assert fires == names and quiet == names


@each(RULES)
@pytest.mark.timeout(2 * CHECK_S)
def test_rules_are_those_of_prometheus_and_fire(path: Path) -> None:
    tool = str(require(promtool))
    for arguments in (["check", "rules", path.name], ["test", "rules", path.name.replace(".rules", ".test")]):
        done = subprocess.run([tool, *arguments], cwd=path.parent, capture_output=True, text=True, timeout=CHECK_S)
        assert done.returncode == 0, done.stdout + done.stderr


def test_labels_of_selectors_are_names_of_attributes() -> None:
    """A label that no attribute becomes can never match."""
    for path in DOMAINS:
        for rule in rules_of(path):
            for selector in re.findall(r"\{([^}]*)\}", rule["expr"]):
                for label in re.findall(r"(\w+)\s*[=!]~?", selector):
                    assert label == label_name(label)


def test_what_rises_with_its_first_event_is_there_before_it() -> None:
    """`increase` over a counter that came into being with its first event is 0: a rule on it would miss that event."""
    begins = {one.prometheus: one for one in METRICS.values() if one.kind == "counter" and one.attributes}
    for path in OWN:
        for rule in rules_of(path):
            for name in re.findall(r"increase\((otel_aiops_\w+)", rule["expr"]):
                of = begins.get(name)
                configured = ("exporter",), ("alertmanager",), ("playbook", "kind", "outcome")  # all that there may be
                known = of is None or of.begins or of.attributes in configured
                assert known, f"{rule['alert']}: {name} comes into being with its first event"


def test_what_counters_begin_with_is_what_there_is() -> None:
    assert METRICS["otel_aiops.rollout.failures"].begins == tuple((str(action),) for action in Action)
    reasons = {*KINDS, "asked", "resumed"}
    outcomes = {REGISTERED, REFUSED, FAILED}
    assert set(METRICS["otel_aiops.lifecycle.runs"].begins) == set(product(outcomes, reasons))
    what = {(one,) for one in Pipeline(PipelineConfig()).analysis.reliability}
    assert set(METRICS["otel_aiops.predictions.hit"].begins) == what
    assert all(len(key) == len(one.attributes) for one in METRICS.values() for key in one.begins)
    severities = {severity for _, severity in METRICS["otel_aiops.incidents.opened"].begins}
    assert severities == {str(one) for one in Severity}
