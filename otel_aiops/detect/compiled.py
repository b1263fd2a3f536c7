"""Compiled kernels: loops over points that become machine code once for each version of the program.

Numba does it: no compiler is needed where the program is installed, and what is compiled is the plain definition.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit

COMPLETE = "complete"  # a file beside the machine code

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(function: Kernel) -> Kernel:
    """The function as machine code, compiled when it is first called with arguments of some types.

    Division by zero gives infinity or NaN as in numpy, and sums are added in the order that is written. What was
    compiled is kept for the next start, where a directory for it can be written. Kernels make no arrays, they fill
    those that they are given: so nothing counts references, which was measured to take most of the time of some.
    """
    settings, directory = cast(Any, config), _directory()
    before, settings.CACHE_DIR = settings.CACHE_DIR, directory
    options: Any = {"cache": bool(directory), "nogil": True, "error_model": "numpy", "_nrt": False}
    try:
        return cast(Kernel, njit(**options)(function))
    finally:
        settings.CACHE_DIR = before


@cache
def _directory() -> str:
    """Where machine code is kept, "" for nowhere. The name changes with every change of a source, since code that
    was compiled into other code would else stay as it was.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  # never raises
    for parent in (Path(__file__).parent / "__pycache__", Path(home) / "otel-aiops"):
        directory = parent / f"kernels-{version}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                return str(directory)
        except OSError:
            continue
    return ""


@contextmanager
def preparation(tell: Callable[[str], None]) -> Iterator[None]:
    """Around a first use of all kernels; `tell` is told when they must be compiled, which takes a while."""
    complete = Path(_directory()) / COMPLETE if _directory() else None
    if complete is None or not complete.exists():
        tell("compiling the detection kernels, once for each version: about a minute")
    yield
    if complete is not None:
        complete.touch()
