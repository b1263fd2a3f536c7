"""Values that a sender of telemetry may choose to do harm with: the one list that tests of every way out go through."""

from __future__ import annotations

from typing import Final

HOSTILE: Final = {
    "shell": "a; touch /tmp/owned && $(touch /tmp/owned) `touch /tmp/owned` | sh > /tmp/owned & #",
    "option": "--output=/tmp/owned",
    "newline": "a\nb\r\nX-Owned: yes\r\n\r\nGET /owned HTTP/1.1",
    "up": "../../../../etc/passwd",
    "up encoded": "..%2f..%2f%2e%2e/",
    "dots": "..",
    "dot": ".",
    "absolute": "/etc/passwd",
    "backslashes": "..\\..\\windows\\win.ini",
    "nul": "a\0b",
    "jinja": "{{7*7}}{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "place": "{id}{secret}%(id)s${id}{0.__class__}",
    "environment": "${env:HOME}${HOME}$HOME%PATH%",
    "tag": "<script>document.title='owned'</script>",
    "attribute": "\"><img src=x onerror=\"document.title='owned'\">' onmouseover='document.title=1",
    "address": "javascript:document.title='owned'",
    "comment": "--> <!-- ]]> </style></title></textarea>",
    "formula": '=HYPERLINK("http://127.0.0.1:9/owned","x")',
    "plus": "+1+cmd|' /C calc'!A0",
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;owned\x07\x9b31m",
    "bidi": "user\u202egnp.exe\u2066\u200f\u061c",
    "promql": '"} or vector(1) or up{a=~".*',
    "regex": "(.+)+$|.*",
    "sql": "' OR 1=1; DROP TABLE incidents; --",
    "url": "http://169.254.169.254/latest/meta-data/",
    "authority": "@169.254.169.254:80/",
    "query": "?x=1&key=2#fragment",
    "long": "x" * 20_000,
    "mention": "@channel <!here> <@U123> @everyone [click](http://127.0.0.1:9/owned) ![i](x)",
    "unicode": "\uff45\uff56\uff49\uff4c\u200b\u00ad\ufeff\U0001d54f e\u0301",
    "empty": " ",
}
FIRST: Final = ("tag", "attribute", "ansi", "bidi", "nul", "newline", "mention", "promql", "jinja", "place", "up")
ALL: Final = "".join(HOSTILE[name] for name in (*FIRST, *sorted({*HOSTILE} - {*FIRST, "long"})))
