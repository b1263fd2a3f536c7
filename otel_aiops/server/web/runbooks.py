"""Runbooks as pages: links of alerts lead to what an alert means, where to look and what to do."""

from __future__ import annotations

import re
from functools import cached_property
from importlib.resources import files
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.server.web.site import Site

TITLE: Final = re.compile(r"# Runbook: (.+)")
HERE: Final = re.compile(r"(\w+\.md)?(#[\w-]+)?")  # links to another runbook, or to an alert


class Runbooks:
    """A page for each file in `otel_aiops/runbooks`, under its name, and one that lists them."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        """Their addresses; `NAME.md#ALERT` is the same here and in the repository."""
        return [Route("/runbooks", self.index), Route("/runbooks/{name}", self.show)]

    @cached_property
    def _texts(self) -> dict[str, str]:
        found = sorted(files("otel_aiops").joinpath("runbooks").iterdir(), key=lambda path: path.name)
        return {path.name: path.read_text("utf-8") for path in found if path.name.endswith(".md")}

    async def index(self, request: Request) -> Response:
        """Which there are, and for which alerts."""
        listed = [(name, _title(text), re.findall(r"^## (\w+)$", text, re.M)) for name, text in self._texts.items()]
        return self._site.page(request, "runbooks.html", "", runbooks=listed)

    async def show(self, request: Request) -> Response:
        """One of them."""
        text = self._texts.get(request.path_params["name"])
        if text is None:
            return self._site.problem(request, 404, "There is no such runbook.")
        return self._site.page(request, "runbook.html", "", title=_title(text), text=_rendered(text))


def _title(text: str) -> str:
    found = TITLE.match(text)
    return found[1] if found else ""


def _rendered(text: str) -> Markup:
    """A runbook without its title, as HTML; a heading has the name under which links of alerts know it."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(TITLE.sub("", text, count=1))
    for token, inner in zip(tokens, [*tokens[1:], Token("", "", 0)], strict=True):
        if token.type == "heading_open":
            token.attrSet("id", inner.content.lower().replace(" ", "-"))
        token.children = [_linked(one) for one in token.children] if token.children else token.children
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _linked(token: Token) -> Token:
    """Links to files of the repository are of no use on a page: they are names there."""
    if token.type == "link_open" and not HERE.fullmatch(str(token.attrs["href"])):
        token.attrs = {}
    return token
