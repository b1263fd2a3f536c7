"""What the services of the real shop run on is locked by hashes, and names no registry."""

from __future__ import annotations

import json
import re

from tests.e2e.real_shop import SERVICES


def test_python_packages() -> None:
    lock = (SERVICES / "requirements.txt").read_text()
    packages = re.findall(r"^([a-z0-9-]+)==", lock, re.M)
    assert len(packages) > 20
    for block in re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.M)[1:]:
        assert "--hash=sha256:" in block, block
    assert not re.search(r"--(extra-)?index-url|://", lock)
    wanted = [re.split(r"[\[=]", line)[0] for line in (SERVICES / "requirements.in").read_text().split("\n")]
    assert {name for name in wanted if name and not name.startswith("#")} <= set(packages)


def test_javascript_packages() -> None:
    text = (SERVICES / "package-lock.json").read_text()
    lock = json.loads(text)["packages"]
    assert lock[""]["dependencies"] == json.loads((SERVICES / "package.json").read_text())["dependencies"]
    assert all(one["integrity"].startswith("sha512-") for path, one in lock.items() if path)
    assert '"resolved"' not in text
