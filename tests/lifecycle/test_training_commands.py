"""The commands that train and tune."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.cli import training as module
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.version import Models
from tests.lifecycle.test_tune import made

RUNNER = CliRunner()


def run(*arguments: object) -> str:
    result = RUNNER.invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "USER": "ann"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "carts.yaml").write_text("name: carts\nmatch: {service: cart}\nbudget: 1/hour\n")
    (tmp_path / "config.yaml").write_text(
        f"detection: {{seasons: 'off', novelty_memory: 0}}\nlifecycle: {{objectives: '{tmp_path}/carts.yaml', "
        "registry: {enabled: false}}\n"
    )
    return tmp_path


def test_a_version_is_trained(data: Path) -> None:
    common = (made(data), "--data-dir", data, "--config", data / "config.yaml", "--processes", 1)
    told = json.loads(run("train", *common, "--objective", "carts", "--why", "first", "--json"))
    version = Models(data / "lifecycle/models").version(told["id"])
    assert version.lineage.who == "ann" and version.lineage.why == "first" and version.lineage.objective
    assert version.settings.detection.novelty_memory == 0
    assert f"{version.id}: 6 series" in run("train", *common, "--objective", data / "carts.yaml")
    result = RUNNER.invoke(app, ["train", *map(str, common), "--objective", "x"])
    assert isinstance(result.exception, BadInput) and "one of carts, got x" in str(result.exception)


def test_families_of_the_configuration_hold_unless_others_are_named(data: Path) -> None:
    config = data / "config.yaml"
    config.write_text(config.read_text().replace("lifecycle: {", "lifecycle: {families: [forest], "))
    common = (made(data), "--data-dir", data, "--config", config, "--processes", 1)
    found = [
        json.loads(run(*command, *common, *more, "--json"))
        for command, more in ((("train",), ()), (("train",), ("--family", "forecast")))
    ]
    assert [list(one["settings"]["families"]) for one in found] == [["forest"], ["forecast"]]
    told = json.loads(run("tune", *common, "--max-series", 1, "--trials", 1, "--json"))
    assert list(told["best"]["families"]) == ["forest"], "what is searched begins with them"


def test_settings_are_searched_and_the_best_are_trained(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = (made(data), "--data-dir", data, "--config", data / "config.yaml", "--processes", 1, "--trials", 1)
    monkeypatch.setattr(module, "SHOWN", 1)
    text = run("tune", *common, "--max-series", 1, "--objective", "carts")
    assert "trial 0 is the best" in text and "threshold: 6.0" in text
    told = json.loads(run("tune", *common, "--max-series", 1, "--train", "--json"))
    version = Models(data / "lifecycle/models").version(told["version"])
    assert version.settings.to_json() == told["best"] and told["trials"][0]["folds"] == 3
