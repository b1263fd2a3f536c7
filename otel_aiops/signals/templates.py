"""Templates: the kinds of log lines of each service, found online and bounded, with a number for each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import I32, I64
from otel_aiops.series.columns import Arrays, checked, pack, unpack
from otel_aiops.signals.masking import WILDCARD, Masking

OTHER = 0  # the number that all lines over the limit share
OTHER_TEXT = "(other)"
CLASS_NAMES = ("unset", "trace", "debug", "info", "warn", "error", "fatal")  # of severity
CLASSES = len(CLASS_NAMES)

_REMEMBERED = 16_384  # masked lines whose number is remembered
_TELLING_FORM = re.compile(r"\[|.*[a-z][A-Z]|.*[\w.]\(\)")  # names of code
_TELLING_ENDINGS = ("ed", "ing", "less", "full", "fully")
_TELLING = frozenset(
    re.findall(
        r"\w+",
        "accept abort absent active begin broken busy cancel close closed complete commit connect create delete deny "
        "deadlock disconnect down drop empty enabled disabled end eof error expire fail failure false fatal fault "
        "finish found full get ok hit idle in inactive info insert invalid kill late leave live lock login logout "
        "lost miss missing new no none not null off offline old on online open out over panic partial pass pause post "
        "put ready refuse reject reset restart resume retry rollback run save send sent slow start stop success "
        "succeed successful successfully timeout true unavailable unhealthy healthy unknown unlock up update valid "
        "warn warning write wrong read receive ",
    )
)


@dataclass(frozen=True, slots=True)
class TemplatesConfig:
    """Bounds of the templates, and when two lines are the same event."""

    per_class: int = 300  # templates of one service in one class of severity
    total: int = 10_000  # templates of all services
    width: int = 64  # first tokens by which lines of one length are told apart
    similarity: float = 0.6  # share of the fixed tokens that must be equal

    def __post_init__(self) -> None:
        for name in ("per_class", "total", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be >= 1, got {getattr(self, name)}")
        if not 0 < self.similarity <= 1:
            raise ConfigError("similarity", f"must be in (0, 1], got {self.similarity}")


class _Leaf:
    """Templates of equal length and first token, by number, and the lines that are remembered to be one of them."""

    __slots__ = ("known", "numbers")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.known: list[str] = []


class _Group:
    """The tree of one service and class: length → first token → leaf; `exact` are names that are not mined."""

    __slots__ = ("exact", "known", "size", "tree")

    def __init__(self) -> None:
        self.tree: dict[int, dict[str, _Leaf]] = {}
        self.exact: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.size = 0


class Templates:
    """Log lines to numbers of templates. One writer; a function of the lines in their order.

    Drain with one layer of tokens: lines of a service and class of severity are told apart by how many tokens they have
    and by their first one, then by the share of equal tokens among those that are fixed in a template. Where a line and
    its template differ there is a wildcard from then on, but never at a word that says how something went (accepted,
    failed, timeout …): lines that differ in such a word are different events.
    Numbers begin at 1 and are never given away again, since windows and other parts hold them; so over a limit a line
    that no template fits gets 0 and is counted in `refused`. Each class has its own room: debug lines never take that
    of errors.
    Source: He, Zhu, Zheng, Lyu (2017), Drain: an online log parsing approach with fixed depth tree, section III.
    """

    def __init__(self, config: TemplatesConfig) -> None:
        self._config = config
        self._masking = Masking()
        self._clear()

    def _clear(self) -> None:
        self._groups: dict[int, _Group] = {}
        self._tokens: list[list[str]] = [[OTHER_TEXT]]
        self._keys: list[int] = [0]
        self._exact: list[bool] = [True]
        self._spilled: list[bool] = [False]
        self._remembered = 0
        self.refused = 0

    def __len__(self) -> int:
        """How many numbers there are, 0 included."""
        return len(self._tokens)

    def text(self, number: int) -> str:
        """A template as text, its wildcards as <*>."""
        tokens = self._tokens[number]
        kept = [token for k, token in enumerate(tokens) if token != WILDCARD or k == 0 or tokens[k - 1] != WILDCARD]
        return " ".join(kept)

    def owners(self) -> tuple[I32, I32]:
        """(service, class of severity) of all templates by number, (T,) each."""
        keys = np.array(self._keys, np.int64)
        return (keys // CLASSES).astype(np.int32), (keys % CLASSES).astype(np.int32)

    def find(self, services: I32, classes: I64, bodies: Iterable[str], names: Iterable[str]) -> I32:
        """The templates of N lines, (N,); a line with a name is that event, whatever its body says.

        One pass over the lines in Python: text has no columns. A line that is known costs its masking and one look-up.
        """
        mask, groups, mine = self._masking.mask, self._groups, self._mine
        found = []
        keys = (services.astype(np.int64) * CLASSES + classes).tolist()
        for key, body, name in zip(keys, bodies, names, strict=True):
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group()
            if name:
                found.append(self._named(key, group, name))
                continue
            text = mask(body)
            number = group.known.get(text)
            found.append(mine(key, group, text) if number is None else number)
        numbers = np.array(found, np.int32)
        self.refused += int((numbers == OTHER).sum())
        return numbers

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """All templates as arrays; what is only remembered for speed is left out."""
        flat, ends = pack([" ".join(tokens).encode("utf-8", "surrogatepass") for tokens in self._tokens])
        return {
            "templates": flat,
            "ends": ends,
            "keys": np.array(self._keys, np.int64),
            "exact": np.array(self._exact, np.bool_),
            "spilled": np.array(self._spilled, np.bool_),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        expected = {name: (dtype, ("T",)) for name, dtype in _COLUMNS.items()}
        checked(arrays, {"templates": (np.uint8, ("B",)), **expected})
        texts = [raw.decode("utf-8", "surrogatepass").split(" ") for raw in unpack(arrays["templates"], arrays["ends"])]
        if not texts or (arrays["keys"] < 0).any():
            raise StateError(f"expected templates with keys >= 0, got {len(texts)} templates")
        self._clear()
        rows = zip(texts, arrays["keys"].tolist(), arrays["exact"].tolist(), arrays["spilled"].tolist(), strict=True)
        for tokens, key, exact, spilled in list(rows)[1:]:
            self._add(key, self._groups.setdefault(key, _Group()), tokens, exact=exact, spilled=spilled)

    # -- the tree ---------------------------------------------------------------------------------------------------

    def _named(self, key: int, group: _Group, name: str) -> int:
        text = self._masking.mask(name)
        number = group.exact.get(text)
        if number is None:
            number = self._add(key, group, text.split(" "), exact=True) if self._room(group) else OTHER
        return number

    def _mine(self, key: int, group: _Group, text: str) -> int:
        """The template of a line that is not remembered; it learns from the line or is made for it."""
        tokens = text.split(" ")
        place = _place(tokens)
        children = group.tree.get(len(tokens), {})
        spilled = place not in children and len(children) >= self._config.width
        leaf = children.get(WILDCARD if spilled else place)
        number, similarity = self._closest(leaf, tokens) if leaf is not None else (OTHER, 0.0)
        if leaf is not None and similarity >= self._config.similarity:
            if similarity < 1:
                self._widen(group, leaf, number, tokens)
                return number
        elif self._room(group):
            return self._add(key, group, tokens, spilled=spilled)
        else:
            number = OTHER
        if leaf is not None:
            self._remember(group, leaf, text, number)
        return number

    def _closest(self, leaf: _Leaf, tokens: list[str]) -> tuple[int, float]:
        """The template that is most similar to a line, and how much: the share of its fixed tokens that are equal.

        Of those that are equally similar the one with most fixed tokens, then the oldest.
        """
        best, best_key = OTHER, (0.0, -1)
        most_off = len(tokens) * (1 - self._config.similarity)
        for number in leaf.numbers:
            kept = self._tokens[number]
            equal = off = 0
            for token, fixed in zip(tokens, kept, strict=True):
                if token == fixed:
                    equal += _is_word(fixed)
                elif fixed != WILDCARD:
                    off += 1
                    if off > most_off:
                        break
            else:
                key = (equal / (equal + off) if equal + off else 1.0, equal)
                if key > best_key and not (off and _tells_apart(tokens, kept)):
                    best, best_key = number, key
        return best, best_key[0]

    def _widen(self, group: _Group, leaf: _Leaf, number: int, tokens: list[str]) -> None:
        """Make a template fit a line, in place; what is remembered of its leaf may no longer hold."""
        kept = self._tokens[number]
        self._tokens[number] = [a if a == b else WILDCARD for a, b in zip(kept, tokens, strict=True)]
        self._forget(group, leaf)

    def _room(self, group: _Group) -> bool:
        return group.size < self._config.per_class and len(self._tokens) <= self._config.total

    def _add(self, key: int, group: _Group, tokens: list[str], *, exact: bool = False, spilled: bool = False) -> int:
        number = len(self._tokens)
        self._tokens.append(tokens)
        self._keys.append(key)
        self._exact.append(exact)
        self._spilled.append(spilled)
        group.size += 1
        if exact:
            group.exact[" ".join(tokens)] = number
            return number
        leaves = group.tree.setdefault(len(tokens), {})
        leaf = leaves.setdefault(WILDCARD if spilled else _place(tokens), _Leaf())
        leaf.numbers.append(number)
        self._forget(group, leaf)
        return number

    def _remember(self, group: _Group, leaf: _Leaf, text: str, number: int) -> None:
        """Keep the answer for a line that has changed nothing: until its leaf changes it stays the same."""
        if self._remembered >= _REMEMBERED:
            for other in self._groups.values():
                other.known.clear()
                for one in (leaf for leaves in other.tree.values() for leaf in leaves.values()):
                    one.known.clear()
            self._remembered = 0
        self._remembered += 1
        group.known[text] = number
        leaf.known.append(text)

    def _forget(self, group: _Group, leaf: _Leaf) -> None:
        for text in leaf.known:
            del group.known[text]
        self._remembered -= len(leaf.known)
        leaf.known.clear()


_COLUMNS = {"ends": np.int64, "keys": np.int64, "exact": np.bool_, "spilled": np.bool_}


def _tells_apart(tokens: list[str], kept: list[str]) -> bool:
    """Whether a line and a template differ in a word that makes them different events."""
    pairs = zip(tokens, kept, strict=True)
    return any(_telling(token) or _telling(fixed) for token, fixed in pairs if token != fixed and fixed != WILDCARD)


def _telling(token: str) -> bool:
    """Whether a token says how something went, or is a name of code."""
    word = token.strip(".,:;!?").lower()
    if word in _TELLING or (len(word) > 4 and word.endswith(_TELLING_ENDINGS)):
        return True
    return _TELLING_FORM.match(token) is not None and WILDCARD not in token


def _is_word(token: str) -> bool:
    """Whether a token is text: neither a parameter nor the label of one."""
    return WILDCARD not in token and token[-1:] not in ":="


def _place(tokens: list[str]) -> str:
    """By what lines of one length are told apart: their first word and its place."""
    for k, token in enumerate(tokens):
        if _is_word(token):
            return f"{k} {token}"
    return WILDCARD
