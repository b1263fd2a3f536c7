"""What is deployed holds: the image, the Compose file and the Helm chart, each read by the tools that will read it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_aiops import __version__
from otel_aiops.config import Config, load, parse
from otel_aiops.server.api import OPEN_PATHS
from tests.servers import require
from tests.tools import golang
from tests.tools.collector import MANIFEST, collector
from tests.tools.prometheus import amtool, promtool

ROOT = Path(__file__).parents[1]
STACK, CHART, ALERTS = ROOT / "deploy/compose", ROOT / "deploy/helm/otel-aiops", ROOT / "grafana/alerts"
KUBERNETES = "1.30.0"  # the newest whose schemas the validator has
USER = "10001"
DATA, CACHE = "/var/lib/otel-aiops", "/var/cache/otel-aiops"
EVERYTHING: dict[str, Any] = {
    "imagePullSecrets": [{"name": "pull"}],
    "config": {
        "budget": "2/week",
        "api": {"tls": {"cert_file": "/etc/otel-aiops/tls/tls.crt", "key_file": "/etc/otel-aiops/tls/tls.key"}},
        "governance": {"hash": ["client.address"], "salt": "${env:OTEL_AIOPS_SALT}"},
    },
    "objectives": {"carts.yaml": "name: carts\nbudget: 2/week\n"},
    "secretEnv": {"OTEL_AIOPS_SALT": {"name": "otel-aiops", "key": "salt"}},
    "env": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
    "secretFiles": [{"name": "tls", "path": "/etc/otel-aiops/tls"}],
    "ports": {"grpc": 14317, "http": 14318, "api": 19464},
    "persistence": {"storageClassName": "fast", "annotations": {"a": "b"}},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"enabled": True, "telemetryFrom": [{"namespaceSelector": {}}]},
    **{key: {"a": "b"} for key in ("podAnnotations", "podLabels", "nodeSelector")},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "priorityClassName": "high",
}


def run(program: Path, *arguments: object, env: dict[str, str] | None = None, good: bool = True) -> str:
    """What a program says; it must end as it should."""
    command = [str(program), *map(str, arguments)]
    known = {**os.environ, "HOME": "/nonexistent", **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=known, check=False, timeout=120)
    assert (done.returncode == 0) == good, done.stdout + done.stderr
    return done.stdout + done.stderr


def own_ports() -> dict[str, str]:
    """Where the service listens unless it is told otherwise."""
    config = Config()
    protocols = config.receivers.otlp.protocols
    assert protocols.grpc and protocols.http
    ends = {"grpc": protocols.grpc.endpoint, "http": protocols.http.endpoint, "api": config.api.endpoint}
    return {name: end.rsplit(":", 1)[1] for name, end in ends.items()}


class TestImage:
    def test_its_user_ports_and_paths_are_those_of_the_others(self) -> None:
        text = (ROOT / "Dockerfile").read_text()
        stages = re.findall(r"^FROM (\S+)", text, re.M)
        assert len(stages) == 2 and all(re.search(r":\d+\.\d+\.\d+-slim", one) for one in stages)
        build, final = text.split(f"FROM {stages[1]}\n", 1) if stages[0] != stages[1] else text.rsplit("FROM ", 1)
        assert "--require-hashes" in build and "requirements.lock" in build
        assert f"USER {USER}:{USER}" in final and "apt-get" not in final and "gcc" not in text
        assert re.search(r"^EXPOSE (.*)$", final, re.M).group(1).split() == list(own_ports().values())  # type: ignore[union-attr]
        assert f'VOLUME ["{DATA}", "{CACHE}"]' in final and f"XDG_CACHE_HOME={CACHE}" in final

    def test_all_that_it_copies_is_sent_to_the_builder(self) -> None:
        copied = {
            name.removeprefix("./")
            for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
            for name in line.split()
        }
        sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        assert copied == sent and all((ROOT / name).exists() for name in copied)


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((STACK / "compose.yaml").read_text())
    return found


class TestCompose:
    @pytest.mark.servers
    def test_compose_reads_it(self, tmp_path: Path) -> None:
        program = require(golang.compose)
        model = json.loads(run(program, "-no-interpolation", "-format", "json", STACK / "compose.yaml"))
        assert set(model["services"]) == {"otel-aiops", "collector", "prometheus", "alertmanager", "grafana"}
        bad = tmp_path / "compose.yaml"
        bad.write_text((STACK / "compose.yaml").read_text().replace("mem_limit:", "memory_limit:", 1))
        assert "memory_limit" in run(program, "-no-interpolation", bad, good=False)

    def test_every_service_is_pinned_small_in_rights_and_on_loopback_only(self, stack: dict[str, Any]) -> None:
        for name, service in stack["services"].items():
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["user"].split(":")[0] not in ("0", "root"), name
            assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
            assert "healthcheck" in service or name == "collector", name
            for volume in service["volumes"]:
                if volume["type"] == "bind":
                    assert volume["read_only"] and (STACK / volume["source"]).exists(), volume
                else:
                    assert volume["source"] in stack["volumes"], volume

    def test_ports_and_paths_are_those_of_the_service(self, stack: dict[str, Any]) -> None:
        own = stack["services"]["otel-aiops"]
        ports = own_ports()
        assert own["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports.values()]
        assert own["image"] == f"otel-aiops:{__version__}" and own["user"] == f"{USER}:{USER}"
        assert {DATA, CACHE} <= {volume["target"] for volume in own["volumes"]}
        asked = re.search(r"127\.0\.0\.1:(\d+)(/[^']*)'", own["healthcheck"]["test"][3])
        assert asked and asked[1] == ports["api"] and asked[2] in OPEN_PATHS
        loaded = load(STACK / "otel-aiops.yaml")
        assert not loaded.warnings and loaded.config.storage.directory == DATA
        protocols = loaded.config.receivers.otlp.protocols
        assert protocols.grpc and protocols.grpc.endpoint == f":{ports['grpc']}"
        assert protocols.http and protocols.http.endpoint == f":{ports['http']}"
        assert loaded.config.api.endpoint == f":{ports['api']}"
        assert stack["services"]["collector"]["environment"]["AIOPS_GRPC"] == f"otel-aiops:{ports['grpc']}"
        grace_s = int(own["stop_grace_period"].removesuffix("s"))
        assert grace_s > 2 * loaded.config.service.shutdown_timeout, "for requests, and then for what waits"

    @pytest.mark.servers
    def test_the_collector_takes_its_configuration(self, stack: dict[str, Any]) -> None:
        service = stack["services"]["collector"]
        assert service["image"].endswith(f":{yaml.safe_load(MANIFEST.read_text())['dist']['version']}")
        mounted = {volume["target"]: STACK / volume["source"] for volume in service["volumes"]}
        files = [f"--config={mounted[one.removeprefix('--config=')]}" for one in service["command"]]
        run(require(collector), "validate", *files, env=service["environment"])

    @pytest.mark.servers
    def test_prometheus_and_alertmanager_take_theirs(self, stack: dict[str, Any], tmp_path: Path) -> None:
        """Prometheus with all rules of the project, at the paths at which its container has them."""
        service = stack["services"]["prometheus"]
        for volume in service["volumes"]:
            if volume["type"] == "bind":
                target = tmp_path / volume["target"].removeprefix("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to((STACK / volume["source"]).resolve())
        (given,) = [one.removeprefix("--config.file=/") for one in service["command"] if "config.file" in one]
        tokens = tmp_path / "etc/prometheus/tokens"
        tokens.mkdir()
        (tokens / "prometheus").touch()  # the service makes it
        told = run(require(promtool), "check", "config", tmp_path / given)
        files = {path.name: yaml.safe_load(path.read_text())["groups"] for path in ALERTS.glob("*.rules.yaml")}
        assert len(files) > 1
        for name, groups in files.items():
            count = sum(len(group["rules"]) for group in groups)
            assert re.search(rf"{re.escape(name)}\n\s+SUCCESS: {count} rules found", told), told
        assert told.count("rules found") == len(files)
        run(require(amtool), "check-config", STACK / "alertmanager.yaml")

    def test_targets_are_services_and_their_ports(self, stack: dict[str, Any]) -> None:
        known = {name: {port.rsplit(":", 1)[1] for port in one["ports"]} for name, one in stack["services"].items()}
        config = yaml.safe_load((STACK / "prometheus.yaml").read_text())
        jobs = [one for job in config["scrape_configs"] for one in job["static_configs"]]
        for one in [*jobs, *config["alerting"]["alertmanagers"][0]["static_configs"]]:
            for target in one["targets"]:
                host, port = target.split(":")
                assert port in known[host if host != "localhost" else "prometheus"], target
        (source,) = yaml.safe_load((STACK / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
        assert source["url"] == "http://prometheus:9090"

    def test_rules_are_in_prometheus_and_not_in_grafana_too(self, stack: dict[str, Any]) -> None:
        mounted = {name: {one["target"] for one in stack["services"][name]["volumes"]} for name in stack["services"]}
        assert "/etc/prometheus/rules" in mounted["prometheus"]
        assert not any(target.startswith("/etc/grafana/provisioning/alerting") for target in mounted["grafana"])

    def test_prometheus_shows_the_token_that_the_service_makes(self, stack: dict[str, Any]) -> None:
        """And nobody else looks at anything: what is published is not loopback inside the container."""
        access = load(STACK / "otel-aiops.yaml").config.api.access
        assert access and access.programs["prometheus"].paths == ("/metrics",)
        own, prometheus = stack["services"]["otel-aiops"], stack["services"]["prometheus"]
        made = Path(access.programs["prometheus"].token_file)
        (written,) = [one["source"] for one in own["volumes"] if one["target"] == str(made.parent)]
        (read,) = [one for one in prometheus["volumes"] if one["source"] == written]
        (job,) = [
            one
            for one in yaml.safe_load((STACK / "prometheus.yaml").read_text())["scrape_configs"]
            if one["job_name"] == "otel-aiops"
        ]
        shown = Path("/etc/prometheus") / job["authorization"]["credentials_file"]
        assert shown == Path(read["target"]) / made.name and read["read_only"]
        assert prometheus["group_add"] == [USER], "the file is for its group"
        assert f"{made.parent}\n" in (ROOT / "Dockerfile").read_text(), "the volume belongs to the user of the image"

    def test_grafana_shows_the_dashboards_of_the_project(self, stack: dict[str, Any]) -> None:
        mounted = {one["target"]: STACK / one["source"] for one in stack["services"]["grafana"]["volumes"]}
        provisioning = mounted["/etc/grafana/provisioning/dashboards"]
        (provider,) = yaml.safe_load((provisioning / "provider.yaml").read_text())["providers"]
        assert mounted[provider["options"]["path"]].resolve() == ROOT / "grafana/dashboards"
        assert not list(STACK.rglob("*.json")) and not list(STACK.rglob("*rules*")), "there is one set of them"


def rendered(values: dict[str, Any], folder: Path, *more: str) -> dict[tuple[str, str], Any]:
    """The manifests of the chart by kind and name."""
    given = folder / "values.yaml"
    given.write_text(yaml.safe_dump(values))
    helm = require(golang.helm)
    text = run(helm, "template", "try", CHART, "-f", given, "--kube-version", KUBERNETES, *more)
    (folder / "manifests.yaml").write_text(text)
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


@pytest.mark.servers
class TestChart:
    @pytest.mark.parametrize("values", [{}, EVERYTHING, {"persistence": {"enabled": False}}])
    def test_helm_and_kubernetes_take_it(self, values: dict[str, Any], tmp_path: Path) -> None:
        found = rendered(values, tmp_path)
        assert len(found) >= 5
        run(require(golang.helm), "lint", "--strict", CHART, "-f", tmp_path / "values.yaml")
        validate = (require(golang.kubectl_validate), "--local-crds", require(golang.service_monitor))
        told = run(*validate, "--version", KUBERNETES[:4], tmp_path / "manifests.yaml")
        assert "OK" in told
        broken = (tmp_path / "manifests.yaml").read_text().replace("replicas: 1", "replicas: one")
        (tmp_path / "manifests.yaml").write_text(broken)
        assert "spec.replicas" in run(*validate, tmp_path / "manifests.yaml", good=False)

    def test_ports_paths_and_rights_are_those_of_the_service(self, tmp_path: Path) -> None:
        found = rendered({}, tmp_path)
        (set_,) = [one for (kind, _), one in found.items() if kind == "StatefulSet"]
        pod = set_["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        ports = [int(port) for port in own_ports().values()]
        assert [one["containerPort"] for one in container["ports"]] == ports
        assert [one["port"] for one in found["Service", "try-otel-aiops"]["spec"]["ports"]] == ports
        assert container["image"] == f"otel-aiops:{__version__}" and set_["spec"]["replicas"] == 1
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["path"] in OPEN_PATHS
        assert {DATA, CACHE, "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert pod["securityContext"]["runAsUser"] == int(USER) and pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"] and not pod["automountServiceAccountToken"]
        text = found["ConfigMap", "try-otel-aiops"]["data"]["otel-aiops.yaml"]
        config = parse(text, {"OTEL_AIOPS_PROMETHEUS_TOKEN": "k" * 43}).config
        assert config.storage.directory == DATA and config.api.endpoint == f":{ports[2]}"
        assert pod["terminationGracePeriodSeconds"] > 2 * config.service.shutdown_timeout

    def test_who_scrapes_has_a_token_of_its_own(self, tmp_path: Path) -> None:
        found = rendered({"serviceMonitor": {"enabled": True}}, tmp_path)
        secret = found["Secret", "try-otel-aiops-prometheus"]["data"]
        assert len(base64.b64decode(secret["token"])) == 43
        (end,) = found["ServiceMonitor", "try-otel-aiops"]["spec"]["endpoints"]
        assert end["authorization"]["credentials"] == {"name": "try-otel-aiops-prometheus", "key": "token"}
        (container,) = found["StatefulSet", "try-otel-aiops"]["spec"]["template"]["spec"]["containers"]
        (env,) = container["env"]
        assert env["valueFrom"]["secretKeyRef"] == end["authorization"]["credentials"]
        text = found["ConfigMap", "try-otel-aiops"]["data"]["otel-aiops.yaml"]
        access = parse(text, {env["name"]: "k" * 43}).config.api.access
        assert access and access.programs["prometheus"].token == "k" * 43

    def test_who_says_who_may_ask_names_the_token(self, tmp_path: Path) -> None:
        credentials = {"credentials": {"name": "mine", "key": "token"}}
        values = {"config": {"api": {"access": {}}}, "serviceMonitor": {"enabled": True, "authorization": credentials}}
        found = rendered(values, tmp_path)
        assert not [kind for kind, _ in found if kind == "Secret"]
        assert found["ServiceMonitor", "try-otel-aiops"]["spec"]["endpoints"][0]["authorization"] == credentials

    def test_the_configuration_that_it_makes_is_one(self, tmp_path: Path) -> None:
        found = rendered(EVERYTHING, tmp_path)
        text = found["ConfigMap", "try-otel-aiops"]["data"]["otel-aiops.yaml"]
        objectives = tmp_path / "objectives"
        objectives.mkdir()
        for name, one in found["ConfigMap", "try-otel-aiops-objectives"]["data"].items():
            (objectives / name).write_text(one)
        text = text.replace("/etc/otel-aiops/objectives", str(objectives))
        env = {"OTEL_AIOPS_SALT": "0123456789abcdef", "OTEL_AIOPS_PROMETHEUS_TOKEN": "k" * 43}
        config = parse(text, env).config
        assert [one.name for one in config.objectives] == ["carts"] and config.budget == "2/week"
        assert config.api.endpoint == ":19464" and config.api.tls and config.governance.hash
        container = found["StatefulSet", "try-otel-aiops"]["spec"]["template"]["spec"]["containers"][0]
        assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("ports.api=zero", "at '/ports/api': got string, want integer"),
            ("replicas=2", "additional properties 'replicas' not allowed"),
            ("config.api.endpoint=0.0.0.0:1", "config.api.endpoint: the chart sets it, use ports"),
            ("config.storage.directory=/x", "config.storage.directory: the chart sets it"),
        ],
    )
    def test_values_that_make_no_sense_are_refused(self, given: str, told: str) -> None:
        helm = require(golang.helm)
        assert told in run(helm, "template", "x", CHART, "--kube-version", KUBERNETES, "--set", given, good=False)

    def test_the_notes_say_how_it_is_reached(self, tmp_path: Path) -> None:
        shutil.copytree(CHART, tmp_path / "chart")  # Helm shows notes only with a cluster; here they are a template
        notes = tmp_path / "chart/templates/NOTES.txt"
        text = notes.read_text()
        notes.unlink()
        (tmp_path / "chart/templates/notes.yaml").write_text(
            f'{{{{- define "notes" -}}}}{text}{{{{- end -}}}}\nnotes: |\n{{{{- include "notes" . | nindent 2 }}}}\n'
        )
        command = ("template", "try", tmp_path / "chart", "--kube-version", KUBERNETES, "--show-only")
        told = yaml.safe_load(run(require(golang.helm), *command, "templates/notes.yaml"))["notes"]
        assert f"endpoint: try-otel-aiops.default.svc:{own_ports()['grpc']}" in told
        assert "exec try-otel-aiops-0 -- otel-aiops incidents list" in told and "{{" not in told

    def test_the_version_is_that_of_the_package(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert chart["appVersion"] == chart["version"] == __version__
