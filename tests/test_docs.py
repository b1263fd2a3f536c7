"""The documents keep up with the code, or the build fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import reference

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("collector-config/*.md"),
    *ROOT.glob("grafana/*.md"),
    *ROOT.glob("docs/**/*.md"),
]


def test_the_readme_is_up_to_date() -> None:
    text = reference.README.read_text()
    assert reference.rewritten(text) == text, "run `make docs`"


def test_every_key_is_described() -> None:
    bare = [path for path, _, comment in reference.settings() if not comment]
    assert not bare, f"these settings have no comment beside them: {bare}"


def test_every_command_has_help() -> None:
    rows = reference.commands().splitlines()[2:]
    assert len(rows) >= 6
    assert all(row.rstrip(" |").split("|")[-1].strip() for row in rows)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_yaml_in_the_readme_is_yaml() -> None:
    import yaml

    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        assert yaml.safe_load(block)


def test_no_registry_host_or_machine_path_is_committed() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert not re.search(r"--(extra-)?index-url|://", lock)
