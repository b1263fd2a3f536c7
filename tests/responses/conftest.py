"""What tests of responses are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.responses.makers import playbook
from tests.responses.receiver import Receiver, receiving
from tests.responses.stage import Stage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def stage(tmp_path: Path, receiver: Receiver) -> Iterator[Stage]:
    """With a playbook that appends the service to a file."""
    found = Stage(tmp_path, receiver, (playbook(),))
    yield found
    found.close()
