"""Masking: a log line without what varies or must stay secret, so that the same event has the same text."""

from __future__ import annotations

import json
import re

WILDCARD = "<*>"
LONGEST = 300  # characters of the first line that count
MOST_TOKENS = 24  # what comes behind them is one wildcard

_HEAD = 4096  # characters of a body in which a message is looked for
_MOST_WORDS = 16_384  # tokens and lines that are remembered because nothing in them is masked
_NESTED = 4  # brackets in brackets that are folded, and JSON in JSON that is opened
_KEYS = 16  # of an object without a message
_WORD = 8  # letters from which on a word must look like one
_LONG_WORD = 16  # letters from which on it must more than look like one
_LONGEST_WORD = 24  # letters of a word without capitals
_COMMON_SHARE = (0.65, 0.75)  # least share of common pairs of letters, in a word and in a long one
_PIECE = (2.5, 3.0)  # least letters of the parts that begin with capitals, on average

_MESSAGES = ("message", "msg", "Message", "MESSAGE", "log", "body", "@mt", "@m", "RenderedMessage", "event")
_VALUE = re.compile(r'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)')
_LOGFMT = re.compile(r'(?<![\w.])(?:msg|message)=(?:"([^"\\]*(?:\\.[^"\\]*)*)|(\S+))')
_KEY = re.compile(r'"([A-Za-z_@][\w.@\-]*)"\s*:')
_QUOTED = re.compile(r'"[^"]*(?:"|$)')
_APOSTROPHES = re.compile(r"'(?<!\w')[^']*(?:'|$)")
_BACKTICKS = re.compile(r"`[^`]*(?:`|$)")
_OBJECT = re.compile(r"\{(?:.*\}|.*)")
_ANGLES = re.compile(r"<(?=[^<>]*[=:,\d])[^<>]*(?:<\*>[^<>]*)*(?:>|$)")
_GROUP = re.compile(r"[(\[](?=[^()\[\]]*[=:,<@\d])[^()\[\]]*(?:[)\]]|$)")
_NOT_A_KEY = "".join(
    f"(?<!{word}: )" for word in ("rror", "RROR", "INFO", "WARN", "FATAL", "ption", "ailed", "ause", "eason", "arning")
)
_PAIR = re.compile(rf"(?<=: ){_NOT_A_KEY}[^,;|:]+(?=[,;|]\s*[\w.\-]+(?: [\w.\-]+)?: )")
_LATER_PAIR = re.compile(rf"([,;|]\s*[\w.\-]+(?: [\w.\-]+)?: ){_NOT_A_KEY}[^,;|:]+")

# What is masked in a token, the first that fits; see `_masked`.
_VARIABLE = re.compile(
    r"""
      [^\s<>()\[\]"',;=]+@[^\s<>()\[\]"',;]+                                     # e-mail, user:password@host
    | (?:AKIA|ASIA|A3T|AGPA|AIDA|AROA|ANPA|AIza|ya29|eyJ|SG\.|hvs\.|xox[a-z]-|gh[pousr]_|github_pat_|glpat-|npm_
        |dckr_pat_|[srp]k[-_](?:live|test|proj))[\w.\-+/=~]{6,}                  # keys that say what they are
    | (?<==)[^\s,;&|)\]}<]+                                                      # key=value
    | (?<=\?)[^\s<]+                                                             # the query of a URL
    | [0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}
    | (?<![0-9A-Za-z])(?:[0-9a-fA-F]{0,4}:){3,}[0-9a-fA-F:.]*                    # IPv6, MAC
    | (?<=\w:)(?![/:])[^\s,;|)\]}<]+                                             # key:value
    | (?<![0-9A-Za-z])[0-9a-fA-F]{8,}(?![0-9A-Za-z])
    | (?<![\w+/\-])(?=[\w+/\-]*[a-z])(?=[\w+/\-]*[A-Z])(?=[\w+/\-]*\d)[\w+\-][\w+/\-]{15,}={0,2}  # base64
    | (?<=/)(?=[^\d\s]*\d)(?=(?:[^A-Z\s]*[A-Z]){4})(?=(?:[^a-z\s]*[a-z]){4})[\w+/]{32,}={0,2}
    | (?<=/)(?=[^/?\s]*[a-z])(?=[^/?\s]*[A-Z])(?=[^/?\s]*\d)[^/?\s]{10}\S*       # base64 that looks like a path
    | (?<=/)[^/?\#\s]*[\d+%][^/?\#\s]*                                            # a part of a path with a digit
    | (?<![\w+/])(?=(?:[^A-Z\s]*[A-Z]){6})(?=(?:[^a-z\s]*[a-z]){6})[A-Za-z0-9+/]{40}(?![\w+/])  # base64 of 30 bytes
    | (?:(?<!\w)[-+\#$€£])?\w*\d\w*
    """,
    re.VERBOSE,
)
# Short cuts of the same for what is frequent: numbers, addresses and times; short paths; key=value.
_NUMBER = re.compile(r"[-+]?\d[\d.:/\-T]*(?<=\d)Z?")
_PATH = re.compile(r"(?:/[\w\-.]{0,7}){1,3}")
_PART = re.compile(r"(?<=/)[^/]*\d[^/]*")
_ASSIGNED = re.compile(r"([A-Za-z_.]{1,32}=)[^\s,;&|<>@(){}\[\]\"']+")
_LETTERS = re.compile(rf"[A-Za-z]{{{_WORD},}}")
_SECRET = re.compile(
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credentials?|cookie|signature|otp|pin|cvv|ssn|iban|jwt"
    r"|session|auth(?:orization)?|sid|[\w\-.]{0,64}(?:key|password|secret|token|cookie|authorization|session[_\-]?id))[:=]",
    re.IGNORECASE,
)
_SCHEMES = frozenset({"bearer", "basic", "digest", "negotiate"})  # of Authorization; what follows is the secret
_REST, _NEXT = "\x01", "\x02"  # marks behind a token: mask up to a separator, mask the next token
_MARKED = re.compile(r"\x01[^,;|)}\]]*|\x02(?: \S+)?")
_LABELS = re.compile(r"<\*>(?<=[:=]<\*>)(?:[\s,;|\\]*(?:[\w.\-]+[:=])?<\*>)+")
_RUN = re.compile(r"<\*>(?:[\s,;:|/.\-+&_=#%~*!?]*<\*>)+")

# The pairs of letters that make up about nine tenths of English text and of identifiers; a random pair is one with
# probability 0.35.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "ab ac ad ag ai ak al am an ap ar as at au av aw ay ba be bi bl bo br bs bu ca cc ce ch ci ck cl co cr cs ct "
        "cu da dd de di dl do dr ds du ea eb ec ed ee ef eg ei el em en ep eq er es et ev ew ex fa fe ff fi fl fo fr "
        "fu ga ge gh gi gl gn go gr gs gu ha he hi ho ht ia ib ic id ie if ig il im in io ip ir is it iv ix iz ke ki "
        "ks la ld le li ll lo ls lt lu ly ma mb me mi mm mo mp ms mu na nc nd ne nf ng ni nk nl nn no ns nt nu nv oa "
        "ob oc od of og oi ok ol om on oo op or os ot ou ov ow pa pe pi pl po pp pr ps pt pu py qu ra rc rd re rg ri "
        "rk rl rm rn ro rr rs rt ru ry sa sc se sh si sl so sp ss st su sy ta tc te th ti tl to tp tr ts tt tu ty ua "
        "ub uc ue ui ul um un up ur us ut va ve vi wa we wi wo wr xp xt yp ys ze ",
    )
)


def message(body: str) -> str:
    """The part of a body that counts: its message if it is JSON or logfmt, of that the first line, cut.

    A line that is cut loses its last token: half a secret may not look like one.

    >>> message('{"level":"info","msg":"cart of 7 loaded\\\\nmore"}')
    'cart of 7 loaded'
    """
    text = body[:_HEAD].lstrip()
    for _ in range(_NESTED):
        if text[:1] != "{":
            break
        text = _opened(text)
    if "msg=" in text or "message=" in text:
        found = _LOGFMT.search(text)
        if found is not None:
            text = found[1] or found[2] or ""
    end = text.find("\n")
    if end >= 0:
        text = text[:end]
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0] + " " + WILDCARD
    return text


def _opened(text: str) -> str:
    """The message of a JSON object; of one without its keys, of what is no JSON itself with a blank in front."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return _searched(text)
    for key in _MESSAGES:
        value = tree.get(key)
        if isinstance(value, str):
            return value.lstrip()
    return " ".join(("object of", *list(tree)[:_KEYS]))


def _searched(text: str) -> str:
    """The same of an object that is cut or broken."""
    for key in _MESSAGES:
        at = text.find(f'"{key}"')
        found = _VALUE.match(text, at + len(key) + 2) if at >= 0 else None
        if found is not None:
            return found[1].replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\").lstrip()
    keys = _KEY.findall(text)[:_KEYS]
    return " ".join(("object of", *keys)) if keys else " " + text


def looks_random(word: str) -> bool:
    """Whether letters are no word: few of their pairs are common ones, or capitals stand anywhere in it.

    >>> looks_random("getCartAsync"), looks_random("wJalrXUtnFEMI"), looks_random("qzxkvbwjpl")
    (False, True, True)
    """
    pairs = common = pieces = 1
    low = word.lower()
    for k in range(len(word) - 1):
        if word[k].islower() and word[k + 1].isupper():
            pieces += 1
        else:
            pairs += 1
            common += low[k : k + 2] in _COMMON
    long = len(word) >= _LONG_WORD
    if pieces == 1 and len(word) > _LONGEST_WORD:
        return True
    return common < _COMMON_SHARE[long] * pairs or len(word) < _PIECE[long] * pieces


class Masking:
    """Replaces what varies in log lines by `WILDCARD`; a function of the line, with a memory that only makes it fast.

    Masked are: numbers and every word with a digit in it (ids, hexadecimal numbers, addresses, times, sizes), UUIDs,
    e-mail addresses, keys and tokens of known forms, values behind `key=` and `key:`, whole values behind keys that
    name a secret and behind schemes of Authorization, private keys, quoted texts, brackets that hold values, parts of
    paths with a digit, queries of URLs, words that look random, and everything that cannot be printed. Runs of
    wildcards become one, and runs of `key=value` their first, so that lists have the same text whatever their length.
    """

    def __init__(self) -> None:
        self._words = _Words()
        self._plain: set[str] = set()

    def mask(self, body: str) -> str:
        """The masked message of a body: tokens with one space between them, "" if there is none."""
        text = message(body)
        if text in self._plain:
            return text
        masked = self._masked(text)
        if masked == text:
            if len(self._plain) >= _MOST_WORDS:
                self._plain.clear()
            self._plain.add(text)
        return masked

    def _masked(self, text: str) -> str:
        text = _without_groups(text)
        words = self._words
        tokens = text.split(None, MOST_TOKENS)
        if len(tokens) > MOST_TOKENS:
            tokens[MOST_TOKENS] = WILDCARD
        text = " ".join([words[token] for token in tokens])
        if _REST in text or _NEXT in text:
            text = _MARKED.sub(" " + WILDCARD, text)
        if WILDCARD in text:
            text = _RUN.sub(WILDCARD, text)
            if "=<" in text or ":<" in text:
                text = _LABELS.sub(WILDCARD, text)
        return text


def _without_groups(text: str) -> str:
    """A line whose quoted texts, brackets with values and lists of `key: value` are masked."""
    if "-----BEGIN" in text:
        text = text.partition("-----BEGIN")[0] + WILDCARD
    if "=" in text:
        text = text.replace(" =", "=").replace("= ", "=")
    if " : " in text:
        text = text.replace(" : ", ": ")
    if '"' in text:
        text = _QUOTED.sub(WILDCARD, text)
    if "'" in text:
        text = _APOSTROPHES.sub(WILDCARD, text)
    if "`" in text:
        text = _BACKTICKS.sub(WILDCARD, text)
    if "<" in text:
        text = _ANGLES.sub(WILDCARD, text)
    if "{" in text:
        text = _OBJECT.sub(WILDCARD, text)
    if "(" in text or "[" in text:
        text = _without_brackets(text)
    if text.count(": ") > 1 and ("," in text or ";" in text or "|" in text):
        text = _LATER_PAIR.sub(rf"\1{WILDCARD}", _PAIR.sub(WILDCARD, text))
    return text


def _without_brackets(text: str) -> str:
    """A line whose round and square brackets that hold values are masked, from the inside out."""
    for _ in range(_NESTED):
        text, count = _GROUP.subn(WILDCARD, text)
        if not count:
            break
    return text


class _Words(dict[str, str]):
    """Tokens and what they are masked to; only those stay in it in which nothing is masked."""

    def __missing__(self, token: str) -> str:
        masked = _masked_token(token)
        if WILDCARD not in masked:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[token] = masked
        return masked


def _masked_token(token: str) -> str:
    if token == WILDCARD or (token.isalnum() and not token.isalpha()):
        return WILDCARD
    if not token.isprintable() or "\ufffd" in token or _NUMBER.fullmatch(token):
        return WILDCARD
    assigned = _ASSIGNED.fullmatch(token)
    if assigned is not None:
        masked = assigned[1] + WILDCARD
    elif _PATH.fullmatch(token):
        masked = _PART.sub(WILDCARD, token)
    else:
        masked = _VARIABLE.sub(WILDCARD, token)
    if masked == WILDCARD:
        return masked
    if len(masked) >= _WORD:
        masked = _LETTERS.sub(_random_masked, masked)
    if token[-1] in ":=":
        return masked + _REST if _SECRET.fullmatch(token) else masked
    return masked + _NEXT if token.strip("'\"[(,").lower() in _SCHEMES else masked


def _random_masked(found: re.Match[str]) -> str:
    return WILDCARD if looks_random(found[0]) else found[0]
