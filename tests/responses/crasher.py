"""A process that responds until it is killed: `python -m tests.responses.crasher FOLDER URL`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from otel_aiops.responses.command import CommandConfig
from tests.responses.makers import playbook
from tests.responses.receiver import Receiver
from tests.responses.stage import APPEND, Stage

HOOK = {"kind": "webhook", "use": "hook"}
FREE = {"cooldown": 0, "most": 1_000_000, "targets": 1_000_000}
STEPS = [
    {"do": {"kind": "command", "use": "first"}, "guard": FREE},
    {"do": HOOK, "guard": FREE},
    {"do": {"kind": "command", "use": "second"}, "guard": FREE},
]


def main(folder: Path, url: str) -> None:
    """Commands append the incident to files, and take a moment."""
    code = f"import time; time.sleep(0.02); {APPEND}"
    commands = tuple(
        CommandConfig(name=name, argv=(sys.executable, "-S", "-c", code, str(folder / name), "{id}"))
        for name in ("first", "second")
    )
    stage = Stage(folder, Receiver(url=url), (playbook(steps=STEPS),), commands)
    print("ready", flush=True)
    while True:
        stage.engine.tick()
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
