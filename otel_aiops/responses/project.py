"""A project of GitHub or GitLab: where steps open issues and start workflows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from otel_aiops.errors import ConfigError
from otel_aiops.responses.http import HttpConfig, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """A project; the token goes in `to.headers`, as Authorization or PRIVATE-TOKEN."""

    name: str  # by which steps use it
    kind: Literal["github", "gitlab"] = "github"  # whose REST API it is
    to: HttpConfig = field(default_factory=lambda: HttpConfig(url="https://api.github.com"))  # its API, as …/api/v4
    project: str = ""  # owner/name, or its number in GitLab

    @property
    def address(self) -> str:
        """Where its API has the project.

        >>> to = HttpConfig(url="https://gitlab.com/api/v4")
        >>> ProjectConfig(name="a", kind="gitlab", to=to, project="team/shop").address
        'https://gitlab.com/api/v4/projects/team%2Fshop'
        """
        below = f"repos/{quote(self.project)}" if self.kind == "github" else f"projects/{quote(self.project, safe='')}"
        return joined(self.to.url, below)

    def wrong_project(self) -> Iterator[ConfigError]:
        """What is wrong with it."""
        if not self.project or not all(self.project.split("/")):
            yield ConfigError("project", f"expected owner/name, got {self.project!r}")
