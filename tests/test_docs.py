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


@pytest.mark.parametrize("name", reference.SECTIONS)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    text = (reference.DOCS / name).read_text()
    assert reference.rewritten(name, text) == text, "run `make docs`"


def test_every_key_is_described() -> None:
    bare = [path for path, _, comment in reference.settings() if not comment]
    assert not bare, f"these settings have no comment beside them: {bare}"


def test_every_command_has_help() -> None:
    rows = reference.commands().splitlines()[2:]
    assert len(rows) >= 6
    assert all(row.rstrip(" |").split("|")[-1].strip() for row in rows)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", _prose(document)):
        if "://" in target:
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in _anchors(file), f"{document.name} links to {target}#{anchor}"


def test_the_readme_leads_to_every_document() -> None:
    text = (ROOT / "README.md").read_text()
    assert not [one.name for one in (ROOT / "docs").glob("*.md") if f"](docs/{one.name}" not in text]


def test_pictures_are_small_and_shown() -> None:
    text = (ROOT / "README.md").read_text()
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    assert [one.stem for one in pictures] == ["incident", "models", "overview", "responses"]
    for one in pictures:
        head = one.read_bytes()[:24]
        assert head[1:4] == b"PNG" and int.from_bytes(head[16:20]) == 1280 and one.stat().st_size < 200_000
        assert f"](docs/images/{one.name})" in text


def _prose(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)


def _anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, words joined by hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.*)$", _prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_yaml_in_documents_is_yaml(document: Path) -> None:
    import yaml

    for block in re.findall(r"```yaml\n(.*?)```", document.read_text(), re.S):
        assert yaml.safe_load(block)


def test_no_registry_host_or_machine_path_is_committed() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert not re.search(r"--(extra-)?index-url|://", lock)
