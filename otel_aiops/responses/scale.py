"""Steps that scale: a Deployment or StatefulSet of Kubernetes, or anything behind a small HTTP interface.

Only what the configuration names is scaled, between the bounds that it sets. How many there were and shall be is
written down before, so that a repeat after a crash never adds twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast
from urllib.parse import quote

from otel_aiops.errors import ConfigError
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, target_of
from otel_aiops.responses.webhook import KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """Where workloads of Kubernetes are; in a pod without `kubeconfig`, the cluster that it runs in."""

    namespace: str = "default"  # of the workloads
    kind: Literal["deployment", "statefulset"] = "deployment"  # what they are
    kubeconfig: str = ""  # file that says how to reach the cluster
    context: str = ""  # in it; the current one
    timeout: float = 10.0  # s that an answer may take


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerConfig:
    """What may be scaled, how far, and how."""

    name: str  # by which steps use it
    targets: Mapping[str, str] = field(default_factory=dict)  # service.name and the workload that it is; no others
    least: int = 1  # replicas
    most: int = 10  # replicas
    kubernetes: KubernetesConfig | None = None  # scale there; needs the extra k8s
    http: HttpConfig | None = None  # or there: GET and PUT of {"replicas": 3} below this URL, by the workload's name

    def __post_init__(self) -> None:
        if (self.kubernetes is None) == (self.http is None):
            raise ConfigError("kubernetes", "expected one of kubernetes and http")
        if not self.targets:
            raise ConfigError("targets", "expected at least one service with its workload, got none")
        if not 0 <= self.least <= self.most:
            raise ConfigError("least", f"must be in 0 .. most ({self.most}), got {self.least}")


class Replicas(Protocol):
    """Counts and sets the replicas of workloads. Raises: Unreachable."""

    def count(self, workload: str) -> int: ...

    def set(self, workload: str, replicas: int, key: str) -> None: ...


class Scale:
    """Scales by way of the scalers of the configuration."""

    def __init__(self, scalers: tuple[ScalerConfig, ...]) -> None:
        self._scalers = {one.name: one for one in scalers}

    def plan(self, order: Order) -> str:
        workload, (now, wanted) = self._workload(order), order.replicas or (0, 0)
        return f"scale {workload} by {order.action.use} from {now} to {wanted} replicas"

    def replicas(self, order: Order) -> tuple[int, int]:
        config, workload = target_of(self._scalers, order), self._workload(order)
        if order.replicas is not None:
            return order.replicas
        try:
            now = _replicas(config).count(workload)
        except Unreachable as error:
            raise Refused(f"{workload} cannot be counted: {error}") from error
        action = order.action
        asked = action.replicas if action.replicas is not None else now + action.add
        wanted = min(max(asked, config.least), config.most)
        if wanted == now:
            raise Refused(f"{workload} has {now} replicas already; {config.least} to {config.most} are allowed")
        return now, wanted

    def run(self, order: Order) -> Outcome:
        config, workload = target_of(self._scalers, order), self._workload(order)
        assert order.replicas is not None
        now, wanted = order.replicas
        try:
            _replicas(config).set(workload, wanted, order.id)
        except Unreachable as error:
            return error.outcome()
        return Outcome(ended=Ended.DONE, text=f"{workload} is scaled from {now} to {wanted} replicas")

    def lost(self, order: Order) -> Outcome | Lost:
        """It has as many as it shall have, as many as before, or somebody else has scaled it."""
        config, workload = target_of(self._scalers, order), self._workload(order)
        assert order.replicas is not None
        try:
            found = _replicas(config).count(workload)
        except Unreachable:
            return Lost.UNKNOWN
        if found == order.replicas[1]:
            return Outcome(ended=Ended.DONE, text=f"{workload} has {found} replicas")
        return Lost.NEVER if found == order.replicas[0] else Lost.UNKNOWN

    def _workload(self, order: Order) -> str:
        config, service = target_of(self._scalers, order), order.values["service"]
        if service not in config.targets:
            raise Refused(f"scaler {config.name} has no workload for service {service[:100]!r}")
        return config.targets[service]


def _replicas(config: ScalerConfig) -> Replicas:
    if config.http is not None:
        return HttpReplicas(config.http)
    assert config.kubernetes is not None
    return KubernetesReplicas(config.kubernetes)


class HttpReplicas:
    """Anything that answers and takes ``{"replicas": 3}`` under the name of a workload."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config

    def count(self, workload: str) -> int:
        tree = send("GET", self._config, self._url(workload)).tree()
        if not isinstance(tree, dict) or type(tree.get("replicas")) is not int:
            raise Unreachable(f'expected {{"replicas": a number}}, got {str(tree)[:100]}', perhaps=False)
        return int(tree["replicas"])

    def set(self, workload: str, replicas: int, key: str) -> None:
        body = json.dumps({"replicas": replicas}).encode()
        headers = {"Content-Type": "application/json", KEY: key}
        send("PUT", self._config, self._url(workload), body=body, headers=headers)

    def _url(self, workload: str) -> str:
        return joined(self._config.url, quote(workload, safe=""))


class KubernetesReplicas:
    """Workloads of Kubernetes. One that an autoscaler looks after is not touched: it would be set back."""

    def __init__(self, config: KubernetesConfig) -> None:
        self._config = config

    def count(self, workload: str) -> int:
        client, api = self._client()
        try:
            self._refuse_autoscaled(client, api, workload)
            read = getattr(client.AppsV1Api(api), f"read_namespaced_{self._kind}_scale")
            found = read(workload, self._config.namespace, _request_timeout=self._config.timeout)
            return int(found.spec.replicas or 0)
        except Exception as error:
            raise self._unreachable(error, perhaps=False) from error
        finally:
            api.close()

    def set(self, workload: str, replicas: int, key: str) -> None:
        client, api = self._client()
        try:
            patch = getattr(client.AppsV1Api(api), f"patch_namespaced_{self._kind}_scale")
            body = {"spec": {"replicas": replicas}}
            patch(workload, self._config.namespace, body, _request_timeout=self._config.timeout)
        except Exception as error:
            raise self._unreachable(error, perhaps=True) from error
        finally:
            api.close()

    @property
    def _kind(self) -> str:
        return {"deployment": "deployment", "statefulset": "stateful_set"}[self._config.kind]

    def _client(self) -> tuple[Any, Any]:
        """(the official client, a connection). Raises: Unreachable."""
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise Unreachable("the extra k8s is not installed: pip install 'otel-aiops[k8s]'", perhaps=False) from error
        of, settings, load = self._config, client.Configuration(), cast(Any, config)
        try:
            if of.kubeconfig:
                load.load_kube_config(of.kubeconfig, of.context or None, settings)
            else:
                load.load_incluster_config(settings)
        except Exception as error:
            raise Unreachable(f"the cluster is not known: {error}"[:300], perhaps=False) from error
        settings.retries = 0
        return client, client.ApiClient(settings)

    def _refuse_autoscaled(self, client: Any, api: Any, workload: str) -> None:
        """Raises: Refused. Without the right to look it is not looked."""
        of = self._config
        hpas = client.AutoscalingV2Api(api)
        try:
            found = hpas.list_namespaced_horizontal_pod_autoscaler(of.namespace, _request_timeout=of.timeout)
        except client.ApiException as error:
            if error.status == 403:
                return
            raise
        for one in found.items:
            target = one.spec.scale_target_ref
            if target.name == workload and target.kind.lower() == of.kind:
                raise Refused(f"{workload} is scaled by the autoscaler {one.metadata.name}")

    def _unreachable(self, error: Exception, *, perhaps: bool) -> Exception:
        if isinstance(error, Refused):
            return error
        status = getattr(error, "status", None)
        if status:
            return Unreachable(f"Kubernetes answered {status}: {getattr(error, 'reason', '')}", perhaps=False)
        return Unreachable(f"Kubernetes cannot be asked: {type(error).__name__}", perhaps=perhaps)
