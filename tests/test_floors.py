"""The house: imports go down only, and a third-party library has one home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "otel_aiops"

FLOORS = {
    "errors": 0,
    "allocator": 0,
    "labels": 0,
    "settings": 1,
    "otlp": 1,
    "series": 2,
    "signals": 2,
    "detect": 3,
    "incidents": 4,
    "pipeline": 5,
    "lifecycle": 6,
    "responses": 6,
    "watch": 6,
    "parts": 9,
    "checkup": 9,
    "chronicle": 9,
    "conductor": 9,
    "monitor": 9,
    "errand": 1,
    "desk": 9,
    "forecaster": 9,
    "trainer": 9,
    "registrar": 9,
    "retrainer": 9,
    "responder": 9,
    "notifier": 9,
    "inbound": 9,
    "silences": 9,
    "views": 9,
    "alerts": 9,
    "server": 7,
    "config": 8,
    "ingest": 9,
    "batch": 9,
    "plan": 9,
    "app": 9,
    "audit": 9,
    "dashboards": 1,
    "demo": 10,
    "shop": 2,
    "cli": 10,
    "__main__": 10,
    "__init__": 0,
}

HOMES = {
    "numba": {"detect"},
    "mlflow": {"lifecycle"},
    "apprise": {"responses"},
    "sqlalchemy": {"incidents", "responses"},
    "grpc": {"server", "demo"},
    "google": {"otlp", "server"},
    "opentelemetry": {"otlp", "server", "shop"},
    "starlette": {"server"},
    "jinja2": {"server"},
    "markdown_it": {"server"},
    "markupsafe": {"server"},
    "uvicorn": {"server"},
    "pydantic": {"settings"},
    "yaml": {"settings", "batch", "dashboards"},
    "grafana_foundation_sdk": {"dashboards"},
    "matplotlib": {"batch"},
    "typer": {"cli"},
    "rich": {"cli", "demo"},
    "pyarrow": {"series", "batch", "lifecycle"},
    "duckdb": {"series"},
    "requests": {"server", "batch", "plan", "demo", "responses"},
    "structlog": {
        "server",
        "app",
        "checkup",
        "chronicle",
        "errand",
        "forecaster",
        "inbound",
        "monitor",
        "notifier",
        "registrar",
        "responder",
        "retrainer",
        "silences",
        "trainer",
    },
    "prometheus_client": {"server"},
    "bcrypt": {"server"},
    "jwt": {"server"},
    "deflate": {"server"},
    "zstandard": {"server", "series"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    assert here in FLOORS, f"{here} has no floor; give it one on purpose"
    for name, line in imports(path):
        if name == "otel_aiops" or not name.startswith("otel_aiops."):
            continue
        there = name.split(".")[1]
        allowed = FLOORS[there] < FLOORS[here] or there == here or FLOORS[there] == FLOORS[here] >= 9
        allowed |= (here, there) == ("signals", "series")  # of the same floor, one way
        assert allowed, f"{path}:{line}: {here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_homes(path: Path) -> None:
    for name, line in imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or room(path) in homes, f"{path}:{line}: {name} belongs in {sorted(homes or ())}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_that_runs_untrusted_bytes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {name.split(".")[0] for name, _ in imports(path)}
    assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, path
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", "")
            assert called not in {"eval", "exec"}, f"{path}:{node.lineno} calls {called}"
            for keyword in node.keywords:
                true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                assert not (keyword.arg in {"allow_pickle", "shell"} and true), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_print_what_a_terminal_does_not_obey(path: Path) -> None:
    if path.name == "terminal.py":  # whose `say` writes control characters out
        return
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {
        one.id if isinstance(one, ast.Name) else one.attr for one in called if isinstance(one, ast.Name | ast.Attribute)
    }
    assert not names & {"echo", "secho"} and not any(isinstance(one, ast.Name) and one.id == "print" for one in called)


def test_every_module_says_what_it_is() -> None:
    for path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} opens without a sentence"


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    import subprocess
    import sys

    code = "import sys, otel_aiops.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "numpy",
        "pyarrow",
        "duckdb",
        "grpc",
        "sklearn",
        "statsmodels",
        "scipy",
        "pandas",
        "opentelemetry",
        "mlflow",
    }
    assert not heavy & set(out)
