"""Template mining as slow and obvious as can be: every line is held against every template of its service."""

from __future__ import annotations

from dataclasses import dataclass

from otel_aiops.signals.masking import WILDCARD, Masking
from otel_aiops.signals.templates import TemplatesConfig, _is_word, _telling


@dataclass
class Kept:
    owner: tuple[int, int]
    branch: str
    tokens: list[str]
    exact: bool = False


class NaiveTemplates:
    """The same numbers as `Templates`, without tree and memory."""

    def __init__(self, config: TemplatesConfig) -> None:
        self.config = config
        self.kept: list[Kept] = [Kept((-1, -1), "", [])]

    def find(self, owner: tuple[int, int], body: str, name: str = "") -> int:
        own = [kept for kept in self.kept if kept.owner == owner]
        tokens = Masking().mask(name or body).split(" ")
        room = len(own) < self.config.per_class and len(self.kept) <= self.config.total
        if name:
            for number, kept in enumerate(self.kept):
                if kept.owner == owner and kept.exact and kept.tokens == tokens:
                    return number
            return self.new(Kept(owner, "", tokens, exact=True)) if room else 0
        branch = next((f"{k} {token}" for k, token in enumerate(tokens) if _is_word(token)), WILDCARD)
        alike = [kept for kept in own if not kept.exact and len(kept.tokens) == len(tokens)]
        branches = {kept.branch for kept in alike}
        if branch not in branches and len(branches) >= self.config.width:
            branch = WILDCARD
        best, best_fit = 0, (0.0, 0)
        for number, kept in enumerate(self.kept):
            if kept.owner == owner and not kept.exact and len(kept.tokens) == len(tokens) and kept.branch == branch:
                fit = self.fit(kept.tokens, tokens)
                if fit is not None and fit[0] >= self.config.similarity and (not best or fit > best_fit):
                    best, best_fit = number, fit
        if best:
            kept = self.kept[best]
            kept.tokens = [a if a == b else WILDCARD for a, b in zip(kept.tokens, tokens, strict=True)]
            return best
        return self.new(Kept(owner, branch, tokens)) if room else 0

    def new(self, kept: Kept) -> int:
        self.kept.append(kept)
        return len(self.kept) - 1

    def fit(self, kept: list[str], tokens: list[str]) -> tuple[float, int] | None:
        pairs = [(a, b) for a, b in zip(kept, tokens, strict=True) if a != WILDCARD]
        off = [pair for pair in pairs if pair[0] != pair[1]]
        if any(_telling(a) or _telling(b) for a, b in off) or len(off) > len(tokens) * (1 - self.config.similarity):
            return None
        equal = sum(a == b and _is_word(a) for a, b in pairs)
        return (equal / (equal + len(off)) if equal + len(off) else 1.0), equal
