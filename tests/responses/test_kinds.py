"""What each kind of step does with the receiver that it is for, and how it finds out after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from otel_aiops.errors import ConfigError
from otel_aiops.responses.annotation import Annotator, GrafanaConfig
from otel_aiops.responses.command import Command, CommandConfig
from otel_aiops.responses.http import HttpConfig
from otel_aiops.responses.issue import Issues, TrackerConfig
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, Responder
from otel_aiops.responses.playbook import ActionConfig
from otel_aiops.responses.scale import KubernetesConfig, Scale, ScalerConfig
from otel_aiops.responses.silence import AlertmanagerConfig, Silencer
from otel_aiops.responses.values import values_of
from otel_aiops.responses.verify import does_not_hold
from otel_aiops.responses.workflow import WorkflowConfig, Workflows
from tests.responses.makers import incident, playbook
from tests.responses.receiver import Asked, Receiver
from tests.responses.stage import Stage
from tests.servers import Alertmanager, Prometheus, wait_for


def order(kind: str, *, service: str = "cart", title: str = "cart fails", name: str = "r1.1.do", **more: Any) -> Order:
    of = incident(service=service, title=title)
    action = ActionConfig(kind=kind, use="it", **more)  # type: ignore[arg-type]
    known: dict[str, Any] = {"run": "r1", "playbook": "heal", "trigger": "opened", "action": action}
    return Order(id=name, incident=of, values=values_of(of, "heal"), **known)


def to(url: str, **more: Any) -> HttpConfig:
    return HttpConfig(url=url, attempts=2, timeout=5.0, headers={"Authorization": "Bearer planted"}, **more)


def ended(found: Any) -> Outcome:
    assert isinstance(found, Outcome) and found.ended is Ended.DONE, found
    return found


class TestCommand:
    def command(self, folder: Path, *argv: str, **more: Any) -> Command:
        return Command((CommandConfig(name="it", argv=argv, **more),), folder)

    def test_its_environment_is_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET_OF_THE_SERVICE", "planted")
        found = self.command(tmp_path, "/usr/bin/env", env={"A": "b"}, cwd="/tmp").run(order("command"))
        assert set(ended(found).output.split()) - {"LC_CTYPE=C.UTF-8"} == {"PATH=/usr/local/bin:/usr/bin:/bin", "A=b"}

    def test_what_takes_too_long_is_ended_with_all_it_started(self, tmp_path: Path) -> None:
        mark = f"77{time.time_ns() % 10_000_000}"
        script = tmp_path / "script"
        script.write_text(f"#!/bin/sh\nsleep {mark} &\necho begun\nsleep {mark}\n")
        script.chmod(0o700)
        found = self.command(tmp_path / "c", str(script), timeout=0.5).run(order("command"))
        assert found is not None and found.ended is Ended.FAILED and found.output == "begun\n"
        assert found.text == "it was ended after its time of 0.5 s"
        running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _read(path)]
        assert not running

    def test_what_it_says_is_bounded_and_the_end_of_it_kept(self, tmp_path: Path) -> None:
        found = self.command(tmp_path, "/usr/bin/seq", "100000", output=100).run(order("command"))
        assert ended(found).output.endswith("99999\n100000\n") and len(ended(found).output) == 100

    @pytest.mark.parametrize(
        ("argv", "said"), [(("/nowhere",), "FileNotFoundError"), (("/etc/passwd",), "PermissionError")]
    )
    def test_what_cannot_be_run(self, tmp_path: Path, argv: tuple[str, ...], said: str) -> None:
        found = self.command(tmp_path, *argv).run(order("command"))
        assert found is not None and found.ended is Ended.FAILED and said in found.text

    def test_another_user(self, tmp_path: Path) -> None:
        import os

        if os.geteuid():
            pytest.skip("only root can run a command as another user")
        found = self.command(tmp_path, "/usr/bin/id", "-un", user="nobody", cwd="/").run(order("command"))
        assert ended(found).output == "nobody\n"

    def test_it_is_left_when_the_service_stops_and_found_afterwards(self, tmp_path: Path) -> None:
        command = self.command(tmp_path, "/bin/sleep", "0.5")
        claim = tmp_path / f"{order('command').id}.1.claim"
        assert command.run(replace(order("command"), stopping=claim.exists)) is None
        wait_for(lambda: command.lost(order("command")) is not Lost.RUNNING, "the command to end")
        assert ended(command.lost(order("command"))).text == "it ended with exit code 0"
        for process in command._left:
            process.wait(10)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


class TestScale:
    def scaler(self, url: str, **more: Any) -> Scale:
        return Scale((ScalerConfig(name="it", targets={"cart": "shop/cart"}, http=to(url), **more),))

    def replicas(self, receiver: Receiver, now: int) -> dict[str, int]:
        state = {"replicas": now}
        receiver.routes["GET", "/shop%2Fcart"] = lambda asked: state
        receiver.routes["PUT", "/shop%2Fcart"] = lambda asked: state.update(asked.json()) or {}
        return state

    @pytest.mark.parametrize(
        ("more", "wanted"), [({"add": 2}, 6), ({"add": -1}, 3), ({"replicas": 5}, 5), ({"add": 99}, 8)]
    )
    def test_there_and_back(self, receiver: Receiver, more: dict[str, int], wanted: int) -> None:
        state = self.replicas(receiver, 4)
        scale, asked = self.scaler(receiver.url, most=8), order("scale", **more)
        asked = replace(asked, replicas=scale.replicas(asked))
        assert asked.replicas == (4, wanted)
        assert scale.lost(asked) is Lost.NEVER
        assert (
            ended(scale.run(asked)).text == f"shop/cart is scaled from 4 to {wanted} replicas"
            and state["replicas"] == wanted
        )
        ended(scale.lost(asked))
        state["replicas"] = 7
        assert scale.lost(asked) is Lost.UNKNOWN, "somebody else has scaled it"

    def test_only_what_is_named(self, receiver: Receiver) -> None:
        self.replicas(receiver, 10)
        with pytest.raises(Refused, match="no workload for service 'pay'"):
            self.scaler(receiver.url).replicas(order("scale", service="pay", add=1))
        with pytest.raises(Refused, match="has 10 replicas already; 1 to 10 are allowed"):
            self.scaler(receiver.url).replicas(order("scale", add=1))
        receiver.routes.clear()
        with pytest.raises(Refused, match="cannot be counted: expected"):
            self.scaler(receiver.url).replicas(order("scale", add=1))

    def test_the_share_is_guarded(self, stage: Stage, receiver: Receiver) -> None:
        state = self.replicas(receiver, 2)
        config = ScalerConfig(name="it", targets={"cart": "shop/cart"}, http=to(receiver.url))
        stage.change(more={"scalers": (config,)})
        stage.with_playbooks(
            playbook("far", [{"do": {"kind": "scale", "use": "it", "add": 2}}]),
            playbook("near", [{"do": {"kind": "scale", "use": "it", "add": 1}}]),
        )
        stage.happens(incident())
        texts = {run.playbook.name: one for run in stage.runs() for one in stage.ledger.executions(run.id).values()}
        assert texts["far"].text.startswith("2 to 4 replicas are 100% of them") and texts["near"].standing == "done"
        assert state["replicas"] == 3

    def test_kubernetes_by_its_official_client(self, receiver: Receiver, tmp_path: Path) -> None:
        """The API server here is an imitation: what is tested is what the client asks of it."""
        state = {"replicas": 2}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "cart", "namespace": "shop"}}
        path = "/apis/apps/v1/namespaces/shop/deployments/cart/scale"
        hpas: dict[str, Any] = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscalerList", "items": []}
        receiver.routes["GET", "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"] = lambda asked: hpas
        receiver.routes["GET", path] = lambda asked: {**scale, "spec": state}

        def patched(asked: Asked) -> Mapping[str, Any]:
            state.update(asked.json()["spec"])
            return {**scale, "spec": state}

        receiver.routes["PATCH", path] = patched
        kubeconfig = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": receiver.url}}
        user = {"name": "u", "user": {"token": "planted"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        tree = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
        kubeconfig.write_text(json.dumps({**tree, "clusters": [cluster], "users": [user], "contexts": [context]}))
        config = KubernetesConfig(namespace="shop", kubeconfig=str(kubeconfig))
        scaler = Scale((ScalerConfig(name="it", targets={"cart": "cart"}, kubernetes=config),))
        asked = order("scale", add=1)
        asked = replace(asked, replicas=scaler.replicas(asked))
        ended(scaler.run(asked))
        headers = {name.lower(): value for name, value in receiver.asked[-1].headers.items()}
        assert state["replicas"] == 3 and headers["authorization"] == "Bearer planted"
        ended(scaler.lost(asked))
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}
        spec = {"scaleTargetRef": target, "maxReplicas": 9}
        hpas["items"] = [{"metadata": {"name": "auto"}, "spec": spec}]
        with pytest.raises(Refused, match="cart is scaled by the autoscaler auto"):
            scaler.replicas(order("scale", add=1))


@pytest.mark.servers
class TestSilence:
    def test_a_real_alertmanager(self, tmp_path: Path) -> None:
        with Alertmanager(tmp_path) as server:
            silencer = Silencer((AlertmanagerConfig(name="it", to=to(server.url)),))
            asked = order("silence", duration=600.0)
            assert silencer.lost(asked) is Lost.NEVER
            assert silencer.plan(asked) == 'silence alerts with service_name="cart" in it for 600 s'
            ended(silencer.run(asked))
            (found,) = requests.get(f"{server.url}/api/v2/silences", timeout=10).json()
            assert found["status"]["state"] == "active" and found["createdBy"] == "otel-aiops, playbook heal"
            assert found["matchers"] == [{"name": "service_name", "value": "cart", "isRegex": False, "isEqual": True}]
            assert ended(silencer.lost(asked)).text.startswith(f"silence {found['id']} until ")
            assert silencer.lost(order("silence", name="r2.1.do")) is Lost.NEVER
            alert = [{"labels": {"alertname": "High", "service_name": "cart"}}]
            requests.post(f"{server.url}/api/v2/alerts", json=alert, timeout=10).raise_for_status()
            (fired,) = requests.get(f"{server.url}/api/v2/alerts", timeout=10).json()
            assert fired["status"]["silencedBy"] == [found["id"]]

    def test_nothing_is_silenced_for_a_service_that_is_not_known(self) -> None:
        silencer = Silencer((AlertmanagerConfig(name="it", to=to("http://127.0.0.1:1")),))
        with pytest.raises(Refused, match="the label service_name of the silence would be empty"):
            silencer.plan(order("silence", service=""))


class TestAnnotation:
    def test_what_grafana_is_asked(self, receiver: Receiver) -> None:
        annotator = Annotator((GrafanaConfig(name="it", to=to(receiver.url), dashboard="d1", tags=("shop",)),))
        receiver.routes["POST", "/api/annotations"] = {"message": "Annotation added", "id": 7}
        receiver.routes["GET", "/api/annotations"] = []
        asked = order("annotation", title="<script>alert(1)</script>")
        assert annotator.lost(asked) is Lost.NEVER
        assert ended(annotator.run(asked)).text == "annotation 7"
        tree = receiver.asked[-1].json()
        assert "<script>" not in tree["text"] and "&lt;script&gt;" in tree["text"] and tree["dashboardUID"] == "d1"
        assert {"otel-aiops", asked.id, "warning", "service:cart", "shop"} == set(tree["tags"])
        receiver.routes["GET", "/api/annotations"] = [{"id": 7}]
        ended(annotator.lost(asked))


class TestIssue:
    @pytest.mark.parametrize(
        ("kind", "path", "key", "link"),
        [
            ("github", "/repos/team/shop/issues", "body", "html_url"),
            ("gitlab", "/projects/team%2Fshop/issues", "description", "web_url"),
        ],
    )
    def test_what_trackers_are_asked(self, receiver: Receiver, kind: Any, path: str, key: str, link: str) -> None:
        config = TrackerConfig(name="it", kind=kind, to=to(receiver.url), project="team/shop", labels=("incident",))
        receiver.routes["POST", path] = {link: "https://example.com/1"}
        receiver.routes["GET", path] = []
        issues, asked = Issues((config,)), order("issue", title="@all cart [x](http://evil)")
        assert issues.lost(asked) is Lost.NEVER
        assert ended(issues.run(asked)).text == "issue https://example.com/1"
        tree = receiver.asked[-1].json()
        assert asked.id in tree[key] and "@all" not in tree["title"] and tree["labels"] in (["incident"], "incident")
        receiver.routes["GET", path] = [{key: "another"}, {key: tree[key], link: "https://example.com/1"}]
        assert ended(issues.lost(asked)).text == "issue https://example.com/1"

    def test_a_request_without_an_answer_is_not_repeated(self, receiver: Receiver) -> None:
        receiver.answers = [(0, b"")]
        found = Issues((TrackerConfig(name="it", to=to(receiver.url), project="a/b"),)).run(order("issue"))
        assert found.ended is Ended.UNKNOWN and len(receiver.asked) == 1


class TestWorkflow:
    """GitHub and GitLab here are imitations: what is tested is what they are asked."""

    GITHUB = "/repos/team/shop/actions/workflows/heal.yml"
    GITLAB = "/projects/team%2Fshop"

    def github(self, url: str, **more: Any) -> Workflows:
        given = {"inputs": {"service": "{service}", "how": "fast", "order": "{order}"}, "ref": "live", **more}
        return Workflows((WorkflowConfig(name="it", to=to(url), project="team/shop", workflow="heal.yml", **given),))

    def gitlab(self, url: str, **more: Any) -> Workflows:
        given = {"inputs": {"SERVICE": "{service}"}, **more}
        return Workflows((WorkflowConfig(name="it", kind="gitlab", to=to(url), project="team/shop", **given),))

    def test_of_github(self, receiver: Receiver) -> None:
        workflows, asked = self.github(receiver.url), order("workflow")
        said = "start the workflow heal.yml of team/shop on live with service=cart, order=r1.1.do"
        assert workflows.plan(asked) == said, "fixed texts may be secrets"
        receiver.answers = [(204, b"")]
        assert ended(workflows.run(asked)).text == "it is started"
        (one,) = receiver.asked
        assert (one.method, one.path) == ("POST", f"{self.GITHUB}/dispatches")
        assert one.json() == {"ref": "live", "inputs": {"service": "cart", "how": "fast", "order": "r1.1.do"}}
        assert one.headers["Authorization"] == "Bearer planted"

    def test_of_gitlab_with_a_token(self, receiver: Receiver) -> None:
        workflows = self.gitlab(receiver.url)
        assert workflows.plan(order("workflow")) == "start a pipeline of team/shop on main with SERVICE=cart"
        receiver.routes["POST", f"{self.GITLAB}/pipeline"] = {"id": 7, "web_url": "https://git.example.com/7"}
        assert ended(workflows.run(order("workflow"))).text == "it is started https://git.example.com/7"
        assert receiver.asked[0].json() == {"ref": "main", "variables": [{"key": "SERVICE", "value": "cart"}]}

    def test_of_gitlab_with_a_trigger_token(self, receiver: Receiver) -> None:
        receiver.routes["POST", f"{self.GITLAB}/trigger/pipeline"] = {"web_url": "https://git.example.com/7"}
        ended(self.gitlab(receiver.url, token="planted too").run(order("workflow")))
        assert receiver.asked[0].json() == {"token": "planted too", "ref": "main", "variables": {"SERVICE": "cart"}}

    def test_one_that_is_refused_or_not_answered(self, receiver: Receiver) -> None:
        receiver.answers = [(422, b'{"message": "Unexpected inputs provided: [\\"how\\"]"}'), (0, b"")]
        found = self.github(receiver.url).run(order("workflow"))
        assert found.ended is Ended.FAILED and "answered 422" in found.text and "Unexpected inputs" in found.text
        found = self.github(receiver.url).run(order("workflow"))
        assert found.ended is Ended.UNKNOWN and len(receiver.asked) == 2, "perhaps it was started: not again"

    def test_after_a_crash_it_is_known_only_by_the_name_of_its_run(self, receiver: Receiver) -> None:
        hub, lab, asked = self.github(receiver.url), self.gitlab(receiver.url), order("workflow")
        runs = {"workflow_runs": [{"name": "heal", "display_title": "heal r1.1.dot", "html_url": "https://x/1"}]}
        pipelines: list[dict[str, Any]] = [{"name": None, "web_url": "https://x/1"}]
        receiver.routes["GET", f"{self.GITHUB}/runs"], receiver.routes["GET", f"{self.GITLAB}/pipelines"] = (
            runs,
            pipelines,
        )
        assert hub.lost(asked) is Lost.UNKNOWN and lab.lost(asked) is Lost.UNKNOWN
        assert hub.lost(replace(asked, began_s=1.0)) is Lost.RUNNING, "its request may still be on the way"
        runs["workflow_runs"].append({"display_title": "heal cart (r1.1.do)", "html_url": "https://x/2"})
        pipelines.append({"name": "heal r1.1.do", "web_url": "https://x/3"})
        assert ended(hub.lost(asked)).text == "it is started https://x/2"
        assert ended(lab.lost(asked)).text == "it is started https://x/3"
        receiver.routes.clear()
        receiver.answers = [(500, b"")]
        assert hub.lost(asked) is Lost.UNKNOWN

    @pytest.mark.parametrize("name", ["$(id)", "a b", "-x", "a`b`", "x'; rm -rf /", "../a", '"'])
    def test_hostile_names_reach_no_workflow(self, receiver: Receiver, name: str) -> None:
        for workflows in (self.github(receiver.url), self.gitlab(receiver.url)):
            with pytest.raises(Refused, match="expected 1 to 253 letters"):
                workflows.plan(order("workflow", service=name))
            with pytest.raises(Refused):
                workflows.run(order("workflow", service=name))
        assert receiver.asked == []

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"workflow": ""}, "workflow: expected the name of its file, as heal.yml, got ''"),
            ({"workflow": "../x"}, "workflow: expected the name of its file"),
            ({"workflow": "heal.yml", "project": "shop/"}, "project: expected owner/name, got 'shop/'"),
            ({"workflow": "heal.yml", "token": "abc"}, "token: expected it only with kind gitlab"),
            ({"workflow": "heal.yml", "ref": " "}, "ref: expected a branch or tag, got none"),
            ({"kind": "gitlab", "workflow": "heal.yml"}, "workflow: expected it only with kind github"),
            ({"workflow": "a.yml", "inputs": {"a b": "x"}}, "inputs.a b: expected letters, digits, _ and -"),
            ({"workflow": "a.yml", "inputs": {"a": "x {service}"}}, "inputs.a: expected a value as a whole argument"),
            ({"workflow": "a.yml", "inputs": {"a": "{servce}"}}, "inputs.a: {servce} is not a known value"),
        ],
    )
    def test_wrong_ones_are_named(self, more: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError) as error:
            WorkflowConfig(**{"name": "it", "project": "a/b", **more})
        assert said in str(error.value)


@pytest.mark.parametrize("kind", ["silence", "issue", "annotation"])
def test_what_is_not_there_yet_may_still_come(receiver: Receiver, kind: str) -> None:
    """A request that was sent before a crash may be carried out after it: it is posted again only when that is over."""
    receiver.answers = [(200, b"[]")]
    responder: Responder = {
        "silence": Silencer((AlertmanagerConfig(name="it", to=to(receiver.url)),)),
        "issue": Issues((TrackerConfig(name="it", to=to(receiver.url), project="a/b"),)),
        "annotation": Annotator((GrafanaConfig(name="it", to=to(receiver.url)),)),
    }[kind]
    assert responder.lost(replace(order(kind), began_s=4.9)) is Lost.RUNNING
    assert responder.lost(replace(order(kind), began_s=5.0)) is Lost.NEVER


@pytest.mark.servers
def test_queries_of_a_real_prometheus(tmp_path: Path) -> None:
    with Prometheus(tmp_path) as server:
        config = to(server.url)
        assert does_not_hold(config, "vector(1) > 0") == ""
        assert does_not_hold(config, "1 > bool 0") == ""
        assert does_not_hold(config, "vector(1) > 2") == "the query gives nothing"
        assert does_not_hold(config, "vector(0)") == "the query gives 0"
        assert "answered 400" in does_not_hold(config, "sum(")
    assert "cannot be asked" in does_not_hold(config, "vector(1)")
