"""Control of a live shop from outside: a folder in which `rollback.py` asks for deployments to be taken back."""

from __future__ import annotations

import sys
from pathlib import Path

from otel_aiops.shop import rollback
from otel_aiops.shop.live import LiveShop


class Control:
    """Answers what is asked in a folder; `look` now and then, at the time of the shop."""

    def __init__(self, folder: Path, shop: LiveShop) -> None:
        self._folder, self._shop = folder, shop
        folder.mkdir(parents=True, exist_ok=True)

    def look(self, time_s: float) -> list[str]:
        """Do what is asked; the services whose deployment was taken back."""
        found = []
        for path in sorted(self._folder.glob(f"*{rollback.WANTED}")):
            version = self._shop.roll_back(path.stem, time_s)
            path.unlink(missing_ok=True)
            half = path.with_suffix(".half")
            half.write_text(version)
            half.rename(path.with_suffix(rollback.DONE))
            found += [path.stem] if version else []
        return found


def command(folder: Path) -> list[str]:
    """What a playbook is allowed to run: the arguments of one of `responses.commands`."""
    return [sys.executable, "-I", "-S", rollback.__file__, str(folder), "{service}"]
