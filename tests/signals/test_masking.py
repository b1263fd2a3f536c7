"""Masking: secrets and ids stay in no text, parameters of any length make the same text."""

from __future__ import annotations

import base64
import random
import re
import string
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.signals import masking as module
from otel_aiops.signals.masking import LONGEST, MOST_TOKENS, WILDCARD, Masking, looks_random, message

ALL = string.ascii_letters + string.digits


def chars(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


def base64url(rng: random.Random, length: int) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(length)).decode().rstrip("=")


SECRETS = {
    "AWS key id": lambda rng: "AKIA" + chars(rng, string.ascii_uppercase + "234567", 16),
    "AWS secret": lambda rng: chars(rng, ALL + "+/", 40),
    "JWT": lambda rng: f"eyJ{base64url(rng, 20)}.eyJ{base64url(rng, 40)}.{base64url(rng, 32)}",
    "GitHub token": lambda rng: "ghp_" + chars(rng, ALL, 36),
    "session id": lambda rng: chars(rng, string.ascii_lowercase + string.digits, 26),
    "hex": lambda rng: chars(rng, "0123456789abcdef", 32),
    "UUID": lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    "e-mail": lambda rng: f"{chars(rng, string.ascii_lowercase, 9)}@{chars(rng, string.ascii_lowercase, 8)}.com",
    "card": lambda rng: " ".join(chars(rng, string.digits, 4) for _ in range(4)),
    "card with dashes": lambda rng: "-".join(chars(rng, string.digits, 4) for _ in range(4)),
    "phone": lambda rng: "+49 " + chars(rng, string.digits, 10),
    "IPv4": lambda rng: ".".join(str(rng.randrange(256)) for _ in range(4)),
    "IPv6": lambda rng: ":".join(f"{rng.randrange(65536):x}" for _ in range(8)),
    "URL with password": lambda rng: f"postgres://user:{chars(rng, string.ascii_lowercase, 12)}@db:5432/shop",
}
PLACES = (
    "{}",
    "login of {}",
    "user {} has logged in",
    "[{}] request done",
    "got ({}) from the queue",
    "session={}",
    "session = {}",
    "id: {}, next",
    "a: b, key: {}",
    'value "{}" is wrong',
    "GET /orders/{}/items HTTP",
    "see https://shop/{}",
    "a,{},b",
    "<{}>",
    "prefix-{}",
    "x.{}",
    "{}: not found",
    '{{"level":"info","message":"token {} seen"}}',
    '{{"message":"token {} seen, cut here',
    '{{"{}":1}}',
    'level=info msg="session {} ended"',
)
KEYED = ("password={}", "password: {}", "Password: {} given", "api_key={};", "Authorization: Bearer {}", "token : {}",
         "passwd = {}", "client-secret: {}", "authorization: basic {}", "sent Bearer {} there")  # fmt: skip


def remains(secret: str, text: str, length: int) -> bool:
    return any(secret[k : k + length] in text for k in range(max(1, len(secret) - length + 1)))


@pytest.mark.parametrize("kind", SECRETS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), place=st.sampled_from(PLACES))
def test_no_secret_stays(kind: str, seed: int, place: str) -> None:
    secret = SECRETS[kind](random.Random(seed))
    text = Masking().mask(place.format(secret))
    assert WILDCARD in text
    assert not remains(secret, text, 8), (secret, text)


@given(st.text(string.ascii_letters, min_size=3, max_size=30), st.sampled_from(KEYED))
def test_what_a_key_calls_a_secret_is_masked_whatever_it_looks_like(secret: str, place: str) -> None:
    words = Masking().mask(place.format(secret)).replace(WILDCARD, " ").replace(":", " ").replace("=", " ").split()
    assert set(words) <= {"password", "Password", "api_key", "Authorization", "token", "passwd", "client-secret",
                          "authorization", "sent", "Bearer", "there", ";"}  # fmt: skip


def test_random_letters_are_masked_and_words_are_not() -> None:
    rng = random.Random(5)
    for alphabet in (string.ascii_letters, string.ascii_lowercase, string.ascii_uppercase):
        missed = sum(not looks_random(chars(rng, alphabet, 24)) for _ in range(2000))
        assert missed / 2000 < 0.02, alphabet
    words = "connection refused recommendation getCartAsync NullPointerException PlaceOrder CheckoutService " \
        "unavailable deadline exceeded StatusRuntimeException productcatalogservice internationally"  # fmt: skip
    assert not [word for word in words.split() if looks_random(word)]


@pytest.mark.parametrize("short", [module._NUMBER, module._PATH])
@given(st.data())
def test_short_cuts_are_the_same_as_the_long_way(short: re.Pattern[str], data: st.DataObject) -> None:
    token = data.draw(st.from_regex(short, fullmatch=True).filter(str.isascii))
    long = module._RUN.sub(WILDCARD, module._VARIABLE.sub(WILDCARD, token))
    quick = module._RUN.sub(WILDCARD, module._masked_token(token))
    assert quick == long.replace("+<*>", "<*>").replace("Z", "") if short is module._NUMBER else quick == long


def test_private_keys_are_masked_to_the_end() -> None:
    mask = Masking().mask
    assert mask("key -----BEGIN RSA PRIVATE KEY----- abc def, ghi -----END RSA PRIVATE KEY-----") == "key <*>"
    assert mask("-----BEGIN PRIVATE KEY-----\nabcdef") == WILDCARD


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("user 17 has logged in from 10.0.0.1:8080 in 5ms", "user <*> has logged in from <*> in <*>"),
        ("2026-11-21T18:00:01.5Z connection refused", "<*> connection refused"),
        ("2026-11-21 18:00:01,512 ERROR no such host", "<*> ERROR no such host"),
        ("GET /api/v1/users/7/cart?x=y HTTP/1.1 200", "GET /api/<*>/users/<*>/cart?<*> HTTP/<*>"),
        ("items [1, 2, 3] loaded", "items <*> loaded"),
        ("items ['a', 'b'] loaded", "items <*> loaded"),
        ("order (user=bob, total=12) failed: timeout", "order <*> failed: timeout"),
        ("order {user {name: bob}} failed", "order <*> failed"),
        ("a=1 b=two c=3 done", "a=<*> done"),
        ("units:12 nanos:5 sent", "units:<*> sent"),
        ("name: bob, city: new york, age: x", "name: <*>, city: <*>, age: <*>"),
        ("ERROR: order failed: timeout", "ERROR: order failed: timeout"),
        ("user doesn't exist in 'the table' now", "user doesn't exist in <*> now"),
        ("  [GetQuote]   received request  ", "[GetQuote] received request"),
        ("java.lang.NullPointerException: null\n\tat com.x.Y", "java.lang.NullPointerException: null"),
        ('{"severity":"info","message":"cart 7 loaded"}', "cart <*> loaded"),
        ('{"log":"{\\"message\\":\\"cart 7 loaded\\"}\\n","stream":"x"}', "cart <*> loaded"),
        ('{"log":"{\\"message\\":\\"cart of 7 loa', "cart of <*> loa"),
        ('{"user":"bob","total":7}', "object of user total"),
        ('{"user":"bob","total":7', "object of user total"),
        ("{user} has left", "<*> has left"),
        ('level=info msg="cart 7 loaded" a=b', "cart <*> loaded"),
        ("level=info msg=loaded a=b", "loaded"),
        ("took 5 of 7", "took <*> of <*>"),
        ("", ""),
        ("\n", ""),
        ("\x00\x01 \ufffd\ufffd data", "<*> data"),
        ("mac aa:bb:cc:dd:ee:ff up", "mac <*> up"),
    ],
)
def test_what_becomes_of_a_line(line: str, masked: str) -> None:
    assert Masking().mask(line) == masked


@pytest.mark.parametrize("length", [2, 5, 30, 400])
def test_lists_have_one_text_whatever_their_length(length: int) -> None:
    mask = Masking().mask
    numbers = [str(k) for k in range(length)]
    for joined, expected in (
        (", ".join(numbers), "ids: <*>"),
        (" ".join(numbers), "ids: <*>"),
        ("[" + ",".join(f"'{k}'" for k in numbers) + "]", "ids: <*>"),
        ("{" + ",".join(f'"k{k}": {k}' for k in numbers) + "}", "ids: <*>"),
    ):
        assert mask("ids: " + joined) == expected


def test_long_lines_are_cut_without_half_a_token() -> None:
    text = Masking().mask("word " * 200)
    assert len(text.split()) == MOST_TOKENS + 1
    assert text.endswith(WILDCARD)
    long = message("token " * 49 + "abcdefghijklmnopqrstuvwxyz")
    assert len(long) <= LONGEST + len(WILDCARD) + 1
    assert "abc" not in long


@given(st.text(max_size=400))
def test_any_text_gives_one_line_of_few_tokens_the_same_each_time(body: str) -> None:
    masking = Masking()
    text = masking.mask(body)
    assert masking.mask(body) == Masking().mask(body) == text
    assert text == " ".join(text.split())
    assert len(text.split()) <= 2 * MOST_TOKENS + 2


@pytest.mark.parametrize(
    "body",
    ["(" * 9_000, "{" * 9_000, '{"a":' * 3_000, '"' * 9_000, "a=" * 9_000, "a: b, " * 2_000, "<" * 9_000, "/" * 9_000,
     "=<*> " * 999, "a/B1" * 3_000, "x" * 10_000_000, "\\" * 9_000, '{"message":"' + "\\" * 9_000, "<*>" * 999 + "!",
     "a:" * 9_000, "a@" * 9_000, "-" * 9_000, "<a=<*>" * 99, "'" * 9_000, "key" * 99 + ":"],
)  # fmt: skip
def test_no_line_takes_long(body: str) -> None:
    start = time.process_time()
    Masking().mask(body)
    assert time.process_time() - start < 0.2
