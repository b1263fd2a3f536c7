"""Steps that tell people: by apprise, to targets that the configuration names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from otel_aiops.errors import ConfigError
from otel_aiops.labels import visible
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, target_of
from otel_aiops.responses.values import filled

MOST_TEXT = 4_000
_MENTION = re.compile(r"@(?=\w)|<(?=[!@#])")  # @channel, and <!here> or <@U1> of Slack
ATTEMPTS = 3
TEXT = "{summary}\n\nseverity {severity}, first suspect {suspect} ({probability}), since {start}, incident {id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """People, and how they are told."""

    name: str  # by which steps use it
    urls: tuple[str, ...] = field(default=(), repr=False)  # of apprise: mailto://…, slack://…, json://…; ${env:…}

    def __post_init__(self) -> None:
        if not self.urls or not all(self.urls):
            raise ConfigError("urls", "expected at least one URL of apprise, and none that is empty")


class Notify:
    """Has apprise tell each target; those that were told already are not told again when another one fails."""

    def __init__(self, targets: tuple[NotifyConfig, ...]) -> None:
        self._targets = {one.name: one for one in targets}

    def plan(self, order: Order) -> str:
        target = target_of(self._targets, order)
        return f"tell {target.name}: {_title(order)}: {_body(order)[:200]}"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome | None:
        import tenacity

        target = target_of(self._targets, order)
        targets = _targets(target.urls)
        bad = sum(one is None for one in targets)
        left = [one for one in targets if one is not None]

        def attempt() -> bool:
            nonlocal left
            left = [one for one in left if not _tell(one, order)]
            return bool(left) and not order.stopping()

        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.3, max=5.0),
            retry=tenacity.retry_if_result(bool),
            retry_error_callback=lambda state: None,
        )(attempt)
        told = len(targets) - len(left) - bad
        if told == len(targets):
            return Outcome(ended=Ended.DONE, text=f"told {target.name}")
        why = f"; {bad} URLs are none of apprise" if bad else ""
        names = ", ".join(str(one.service_name) for one in left)
        return Outcome(ended=Ended.FAILED, text=f"told {told} of {len(targets)} targets, not {names or 'some'}{why}")

    def lost(self, order: Order) -> Lost:
        return Lost.UNKNOWN


def _targets(urls: tuple[str, ...]) -> list[Any]:
    """The plugins of apprise, None for a URL that is none of its. It follows no redirects."""
    import apprise

    asset = apprise.AppriseAsset(app_id="otel-aiops", app_desc="otel-aiops", http_redirects=False, async_mode=False)
    return [apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True) for url in urls]


def _tell(target: Any, order: Order) -> bool:
    import apprise

    from otel_aiops.responses.destinations import check_host

    try:
        check_host(str(getattr(target, "host", None) or ""), getattr(target, "port", None))
    except ValueError:
        return False
    text = {"title": _title(order), "body": _body(order), "body_format": apprise.NotifyFormat.TEXT}
    return bool(target.notify(**text, notify_type=_kind(order)))


def _kind(order: Order) -> Any:
    import apprise

    kinds = {"info": apprise.NotifyType.INFO, "critical": apprise.NotifyType.FAILURE}
    return kinds.get(str(order.incident.severity), apprise.NotifyType.WARNING)


def _title(order: Order) -> str:
    return " ".join(quiet(order.values["title"]).split())[:200]


def _body(order: Order) -> str:
    values = {name: quiet(value) for name, value in order.values.items()}
    return filled(order.action.text or TEXT, values)[:MOST_TEXT]


def quiet(value: str) -> str:
    """A value that calls nobody and hides nothing: what a chat takes for a mention is broken.

    >>> quiet("@channel <!here> a@b.c").replace(chr(0x200B), "~")
    '@~channel <~!here> a@~b.c'
    """
    return _MENTION.sub(lambda match: f"{match[0]}\u200b", visible(value, keep="\n"))
