"""Releases: what a resource says of the software that runs in it, read once from each distinct resource."""

from __future__ import annotations

import re
from dataclasses import dataclass

from otel_aiops.errors import BadInput
from otel_aiops.labels import AttributeValue, text
from otel_aiops.otlp.attributes import resource

VERSION, IMAGE, WORKLOAD, REPLICA_SET, FLAG, SCALED = "version", "image", "deployment", "replica set", "flag", "scaled"
STRONGEST = (
    VERSION,
    IMAGE,
    WORKLOAD,
    REPLICA_SET,
    SCALED,
)  # what a change of several is called
FLAG_PREFIX = "feature_flag."
INSTANCE_KEYS = ("k8s.pod.name", "service.instance.id", "container.id", "host.name")
LONGEST = 256  # characters of a value that count

# The name of a pod of a Deployment: name, hash of the template, five more. Kubernetes writes both without vowels and
# the digits 0, 1, 3 (apimachinery, rand.SafeEncodeString).
_POD = re.compile(r"(.+-[bcdfghjklmnpqrstvwxz2456789]{6,10})-[bcdfghjklmnpqrstvwxz2456789]{5}")


@dataclass(frozen=True, slots=True)
class Release:
    """What runs where: `place` is the service with its namespace and environment, `facets` are its version, image,
    Deployment of Kubernetes, replica set and flags, as far as they are told; `instance` is the pod, instance or host,
    "" when none is named.
    """

    service: str
    place: str
    instance: str
    facets: tuple[tuple[str, str], ...]


def release_of(raw: bytes) -> Release | None:
    """What a raw Resource message says; None when it names no service or cannot be read.

    Source: OpenTelemetry semantic conventions, resource attributes of service, deployment, k8s and container.
    """
    try:
        has = dict(resource(raw))
    except BadInput:
        return None
    service = _text(has, "service.name")
    if not service:
        return None
    environment = _text(has, "deployment.environment.name") or _text(has, "deployment.environment")
    instance = next((found for key in INSTANCE_KEYS if (found := _text(has, key))), "")
    facets = {
        VERSION: _text(has, "service.version"),
        IMAGE: _image(has),
        WORKLOAD: _text(has, "k8s.deployment.name"),
        REPLICA_SET: _text(has, "k8s.replicaset.name") or replica_set_of(_text(has, "k8s.pod.name")),
    }
    told = [(facet, value) for facet, value in facets.items() if value]
    flags = [(flag_of(key.removeprefix(FLAG_PREFIX)), _text(has, key)) for key in has if key.startswith(FLAG_PREFIX)]
    place = "\n".join((service, _text(has, "service.namespace"), environment))
    return Release(service, place, instance, (*told, *flags))


def flag_of(key: str) -> str:
    """The facet of a feature flag.

    >>> flag_of("new-cart")
    'flag new-cart'
    """
    return f"{FLAG} {key[:LONGEST]}"


def replica_set_of(pod: str) -> str:
    """The replica set by the name of its pod, "" when the name is not of that form.

    >>> replica_set_of("cart-5d9c7b8f6c-x2x4z"), replica_set_of("kafka-0")
    ('cart-5d9c7b8f6c', '')
    """
    found = _POD.fullmatch(pod)
    return found[1] if found else ""


def _image(has: dict[str, AttributeValue]) -> str:
    tags = has.get("container.image.tags")
    if isinstance(tags, tuple) and tags:
        return ",".join(sorted(text(tag) for tag in tags))[:LONGEST]
    return _text(has, "container.image.tags") or _text(has, "container.image.tag")


def _text(has: dict[str, AttributeValue], key: str) -> str:
    return text(has.get(key))[:LONGEST]
