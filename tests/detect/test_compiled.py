"""Compiled kernels: equal to their definition, kept where they can be, and announced when that takes a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from otel_aiops.detect import compiled as module
from otel_aiops.detect.compiled import compiled, preparation


@pytest.fixture
def fresh() -> Iterator[None]:
    """Directories are looked for anew, and again afterwards."""
    module._directory.cache_clear()
    yield
    module._directory.cache_clear()


def divided(a: Any, b: Any) -> Any:
    return a / b


def test_division_by_zero_is_that_of_numpy() -> None:
    kernel = compiled(divided)
    assert kernel(1.0, 4.0) == 0.25
    assert kernel(1.0, 0.0) == np.inf
    assert np.isnan(kernel(0.0, 0.0))


def test_machine_code_is_kept_elsewhere_where_the_package_cannot_be_written(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "file" / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = Path(module._directory())
    assert kept.parent == tmp_path / "cache" / "otel-aiops"
    assert compiled(divided)(3.0, 2.0) == 1.5
    assert list(kept.rglob("*.nbc"))


def test_without_any_place_it_is_compiled_each_time(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "file" / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert module._directory() == ""
    assert cast(Any, compiled)(divided)(3.0, 2.0) == 1.5


def test_a_change_of_any_source_has_a_place_of_its_own(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "compiled.py"))
    (tmp_path / "one.py").write_text("A = 1")
    first = module._directory()
    module._directory.cache_clear()
    (tmp_path / "one.py").write_text("A = 2")
    assert module._directory() != first


def test_it_is_said_once_that_kernels_are_compiled(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "compiled.py"))
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt), preparation(told.append):
        raise KeyboardInterrupt
    with preparation(told.append):
        pass
    assert len(told) == 2 and "compiling" in told[0]
    with preparation(told.append):
        pass
    assert len(told) == 2
