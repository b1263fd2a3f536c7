"""Runs one command by itself, so that the end of the service neither ends nor repeats it: see `command.py`.

Started as a script without the package, with the order as JSON on its standard input. It claims the order by a file
that only one can make, and holds a lock on it while it lives; the outcome goes into a second file, whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CLAIMED = 3  # exit code: somebody else has claimed it
TERM_S = 5.0  # from SIGTERM to SIGKILL
DRAIN_S = 0.5  # for what is still in the pipe when the command has ended
CHUNK = 65_536


def claim(path: Path, content: bytes = b"") -> int:
    """Claim an order: the descriptor of the locked file, -1 where it is claimed already."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(own, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, content)
        os.link(own, path)  # atomic; it is locked and has its content already
    except FileExistsError:
        os.close(descriptor)
        return -1
    finally:
        own.unlink()
    return descriptor


def write(path: Path, tree: dict[str, Any]) -> None:
    """Write an outcome, whole or not at all."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(tree).encode())
        file.flush()
        os.fsync(file.fileno())
    own.replace(path)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Run the command of an order: its exit code, the end of what it said, and whether it took too long."""
    more: dict[str, Any] = {}
    if order["user"]:
        more = {"user": order["user"], "group": order["group"] or None, "extra_groups": []}
    try:
        process = subprocess.Popen(
            order["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=order["cwd"],
            env=order["env"],
            start_new_session=True,
            umask=0o077,
            **more,
        )
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return {"code": None, "output": "", "late": False, "error": f"{type(error).__name__}: {error}"}
    output, late = _follow(process, order["timeout"], order["most"])
    return {"code": process.wait(), "output": output.decode("utf-8", "replace"), "late": late, "error": ""}


def _follow(process: subprocess.Popen[bytes], timeout_s: float, most: int) -> tuple[bytes, bool]:
    """(the end of what it says, whether it was ended because it took too long)."""
    assert process.stdout is not None
    kept, late = bytearray(), False
    until_s, kill_s = time.monotonic() + timeout_s, float("inf")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ended_s = float("inf")
        while time.monotonic() < ended_s + DRAIN_S:
            if selector.select(0.05):
                chunk = os.read(process.stdout.fileno(), CHUNK)
                kept += chunk
                del kept[:-most]
                if not chunk:
                    break
            now_s = time.monotonic()
            if process.poll() is not None:
                ended_s = min(ended_s, now_s)
            elif now_s > kill_s:
                _signal(process, signal.SIGKILL)
            elif now_s > until_s and not late:
                late, kill_s = True, now_s + TERM_S
                _signal(process, signal.SIGTERM)
        while process.poll() is None:  # it has closed its output, and goes on
            if time.monotonic() > (kill_s if late else until_s):
                _signal(process, signal.SIGKILL if late else signal.SIGTERM)
                late, kill_s = True, time.monotonic() + TERM_S
            time.sleep(0.02)
    if late:
        _signal(process, signal.SIGKILL)  # what it started in its group
    return bytes(kept), late


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def main() -> int:
    try:
        order = json.loads(sys.stdin.buffer.read())
    except ValueError:
        return CLAIMED  # the service ended before the order was whole: nothing is done
    folder, name = Path(order["folder"]), order["name"]
    if claim(folder / f"{name}.claim") < 0:
        return CLAIMED
    write(folder / f"{name}.result", run(order))
    return 0


if __name__ == "__main__":
    sys.exit(main())
