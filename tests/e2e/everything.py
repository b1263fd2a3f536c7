"""A running service with something for every page: incidents, predictions, alerts, versions, responses, silences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from otel_aiops.incidents.incident import State
from otel_aiops.lifecycle.version import Lineage, Settings
from tests.desk.makers import incident, prediction
from tests.e2e.test_response_page import FIRING
from tests.incident_feed import broken, call
from tests.responses.receiver import receiving
from tests.servers import wait_for
from tests.test_app import Running
from tests.test_responses import configured, responses

S = 1_000_000_000
BUDGET = "budget: 1000/day\n"  # so that there are alerts to judge
OBJECTIVE = """
objectives:
- name: catalog
  description: of the catalog
  match: {service: catalog}
  budget: 1000/day
  responses: [notify, webhook, command]
"""


@contextmanager
def everything(folder: Path) -> Iterator[Rich]:
    """The service, with nothing in it that changes by itself."""
    with receiving() as receiver:
        more = BUDGET + OBJECTIVE + configured(folder, receiver.url)
        with broken(folder, more, still=True) as up:
            wait_for(lambda: responses(up, state="waiting"), "somebody to be asked")
            found = Rich(up)
            found.fill()
            yield found


class Rich:
    """The service, and the names of what is in it."""

    def __init__(self, up: Running) -> None:
        self.up = up
        self.incident = str(up.get("/api/v1/incidents")["incidents"][-1]["id"])  # that of the broken shop

    def fill(self) -> None:
        """What the broken shop alone has not."""
        tree = {"version": "4", "groupKey": "g", "status": "firing", "receiver": "x", "alerts": [FIRING]}
        assert self.post("webhooks/alertmanager", tree)["taken"] == 1
        self.predict()
        self.post("silences", {"services": ["payments*"], "for": "2h", "who": "ana", "why": "moves a database"})
        self.post("maintenance", {"services": ["cart"], "for": "2h", "who": "ana", "why": "a new node"})
        self.post(f"incidents/{self.incident}/verdict", {"verdict": "real", "who": "ana", "why": "seen"})
        self.roll("shadow", version=self.versions(2.0, 2.5)[0])

    def predict(self) -> None:
        """A disk that runs full in two hours, a prediction that missed, and an incident of the past."""
        service = self.up.service
        now_ns = service.pipeline.event_ns
        said = prediction(name="p-disk")
        assert said.prediction is not None
        about = replace(said.prediction, expires_ns=now_ns + 20_000 * S)
        made = replace(said, start_ns=now_ns, detected_ns=now_ns, services=("catalog",), prediction=about)
        missed = replace(prediction("miss", 2, "p-missed"), start_ns=now_ns - 3_600 * S)

        def foresee() -> None:
            told = service.pipeline.analysis.incidents.foresee([made], now_ns)
            service.chronicle.write([*told, missed, incident(state=State.RESOLVED)], now_ns)

        service.ask(foresee)

    def versions(self, *thresholds: float) -> list[str]:
        """What serves, registered with other thresholds."""
        models, found = self.up.service.models, list[str]()
        version, bundle = models.load(str(self.post("models", {"who": "ana", "why": "to compare with"})["id"]))
        for threshold in thresholds:
            changed = Settings(replace(version.settings.detection, threshold=threshold))
            found.append(models.write(changed, bundle, Lineage(parent=version.id, who="ana", why="a try")).id)
        return found

    def roll(self, action: str, **more: Any) -> dict[str, Any]:
        return self.post("rollout", {"action": action, "who": "ana", **more})

    def post(self, path: str, tree: Any) -> dict[str, Any]:
        answer = call(self.up, "POST", path, tree)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @property
    def series(self) -> str:
        """One that is evidence of the incident."""
        found = self.up.get(f"/api/v1/incidents/{self.incident}")["findings"]
        return next(str(one["evidence"]["series"]) for one in found if one["evidence"]["series"])

    @property
    def alerted(self) -> str:
        """A series with an alert that nobody has judged."""
        return str(self.up.get("/api/v1/feedback/queue")["queue"][0]["fingerprint"])

    @property
    def alert(self) -> str:
        """One of others."""
        return str(self.up.get("/api/v1/known-alerts")["alerts"][0]["id"])

    @property
    def run(self) -> str:
        """A response that waits for people, or did."""
        return str(responses(self.up, playbook="heal")[0]["id"])

    @property
    def idle(self) -> str:
        """A version that does nothing."""
        return next(str(one["id"]) for one in self.up.get("/api/v1/models")["models"] if not one["role"])

    def pages(self) -> dict[str, tuple[str, ...]]:
        """Addresses of every page by its route."""
        found, tried = self.incident, responses(self.up, playbook="try")[0]["id"]
        champion = self.up.get("/api/v1/rollout")["champion"]
        views = tuple(f"/incidents?view={view}" for view in ("now", "predicted", "past", "all", "alerts"))
        incidents = tuple(f"/incidents/{name}" for name in (found, "p-disk", "p-missed", self.alert))
        return {
            "/": ("/",),
            "/incidents": views,
            "/incidents/{id}": incidents,
            "/incidents/{id}/playbooks": (f"/incidents/{found}/playbooks",),
            "/series": ("/series", "/series?search=memory+catalog", "/series?search=nothing+has+this"),
            "/series/{fingerprint}": (f"/series/{self.series}", f"/series/{self.alerted}"),
            "/objectives": ("/objectives",),
            "/objectives/{name}": ("/objectives/catalog",),
            "/models": ("/models",),
            "/models/{id}": (f"/models/{champion}", f"/models/{self.idle}"),
            "/feedback": ("/feedback",),
            "/responses": ("/responses", "/responses?state=failed"),
            "/responses/{id}": (f"/responses/{self.run}", f"/responses/{tried}"),
            "/silences": ("/silences",),
            "/system": ("/system",),
            "/runbooks": ("/runbooks",),
            "/runbooks/{name}": ("/runbooks/host.md",),
        }

    def addresses(self) -> list[str]:
        """Of every page."""
        return [address for some in self.pages().values() for address in some]
