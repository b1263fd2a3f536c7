"""Finds Chromium, or unpacks Debian's beside the project with its libraries and a font; `start` says how to run it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.tools import debian
from tests.tools.collector import Unavailable

PACKAGES = ("chromium", "fonts-dejavu-core")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = "usr/lib/chromium/chromium"  # usr/bin/chromium is a script that knows the paths of an installation
START_S = 60
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir>
<alias binding="same"><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias binding="same"><family>sans</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias binding="same"><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
<match target="pattern"><edit name="family" mode="append_last"><string>DejaVu Sans</string></edit></match></fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Browser:
    """A program and the environment that it needs beside that of the tests."""

    program: Path
    environment: dict[str, str]


def chromium() -> Path:
    """The program, downloaded if it is neither on the PATH nor unpacked yet, and seen to start. Raises: Unavailable."""
    return browser().program


def browser() -> Browser:
    """Chromium as it can be started here. Raises: Unavailable."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    found = Browser(Path(installed), {}) if installed else _unpacked()
    _start(found)
    return found


def _unpacked() -> Browser:
    home = debian.unpacked(*PACKAGES)
    program = home / PROGRAM
    if not program.exists():
        raise Unavailable(f"Debian's package {PACKAGES[0]} has no {PROGRAM}")
    fonts = home / "fonts.conf"
    fonts.write_text(FONTS.format(fonts=home / "usr" / "share" / "fonts", cache=home / "fontcache"))
    return Browser(program, {"LD_LIBRARY_PATH": debian.libraries(home), "FONTCONFIG_FILE": str(fonts)})


def _start(found: Browser) -> None:
    """See that it starts: a library may be missing."""
    command = [str(found.program), "--headless", "--no-sandbox", "--disable-gpu", "--version"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **found.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{found.program} does not start: {error}") from None
    if done.returncode:
        raise Unavailable(f"{found.program} does not start:\n{(done.stdout + done.stderr)[-1000:]}")


if __name__ == "__main__":
    print(chromium())
