"""The whole circle as one run: killed anywhere, two at once, a full disk, a gate that says no, and what goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput, Overloaded, StateError, StorageError
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.lifecycle import registry, tracking
from otel_aiops.lifecycle import run as module
from otel_aiops.lifecycle.cases import Cases
from otel_aiops.lifecycle.circle import Circle, Plan, begun, champion_in, champion_of, different, freeze, planned
from otel_aiops.lifecycle.dataset import DatasetConfig
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.profile import QualityLimits
from otel_aiops.lifecycle.registry import RegistryConfig
from otel_aiops.lifecycle.run import STEPS, standing
from otel_aiops.lifecycle.runs import ABANDONED, FAILED, REFUSED, REGISTERED, RUNNING, TRIALS, Runs
from otel_aiops.lifecycle.search import TuneConfig
from otel_aiops.lifecycle.tried import Tried
from otel_aiops.lifecycle.version import Models
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.segments import HOUR_NS
from tests.lifecycle.circles import alone, around, circle, judged, left, recorded
from tests.lifecycle.recording import NOW_NS, SERIES, START_NS
from tests.servers import free_port


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    monkeypatch.setattr(module, "evaluate", judged)
    return Path(shutil.copytree(source, tmp_path / "data"))


def test_a_run_registers_one_version_and_the_same_again_does_nothing(data: Path) -> None:
    made = circle(data, why="first")
    shares: list[str] = []
    done = around(made, tell=lambda step, share, text: shares.append(step))
    assert done.state == REGISTERED and [one.name for one in done.steps] == list(STEPS)
    assert done.version and {"dataset", "train"} <= set(shares)
    assert "20 injected faults found" in done.step("evaluate").words  # type: ignore[union-attr]
    version = Models(data / "lifecycle/models").version(done.version)
    assert (version.lineage.who, version.lineage.why) == ("ana", "first")
    stands = left(data)
    assert stands["versions"] == stands["models"] == [done.version] and not stands["temporary"]
    assert stands["runs"] == [f"{done.id}.json"]
    again = around(made)
    assert (again.id, again.began_ns, again.attempts) == (done.id, done.began_ns, 1)
    anew = around(made, resume=False)
    assert anew.version == done.version, "each step is content-addressed"
    assert left(data) == stands
    train = done.step("train")
    assert train is not None and train.inputs == {"dataset": done.steps[0].outputs["dataset"]}


def test_families_of_the_configuration_are_in_new_versions(data: Path) -> None:
    made = circle(data, families=("forest", "forecast"))
    assert "3 settings  those of the configuration, with forecast and forest" in planned(made, NOW_NS).lines(made)
    done = around(made)
    version = Models(data / "lifecycle/models").version(done.version)
    assert version.settings == made.configured and list(version.settings.to_json()["families"]) == [
        "forecast",
        "forest",
    ]
    alone = circle(data)
    assert different(planned(made, NOW_NS), planned(alone, NOW_NS)) == ["config families"]
    assert around(alone).version != done.version


def test_killed_at_any_boundary_it_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    """Each in a process that is really killed: before and after renames, which everything durable becomes by."""
    command = [sys.executable, "-m", "tests.lifecycle.circles", str(source), str(tmp_path), "19"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    last = found[-1]
    assert last["killed"] == 0 and len(last["left"]["versions"]) == 1
    assert last["number"] > 60, "every step writes its journal before and after"
    for one in found:
        assert one["again"] == 0, (one, done.stderr[-2_000:])
        assert one["killed"] in (-signal.SIGKILL, 0)
        assert one["after"]["versions"] in ([], last["left"]["versions"]), "whole, or not there"
        assert one["left"] == last["left"], one["number"]


def test_two_at_once(data: Path) -> None:
    made, runs = circle(data), Runs(data)
    code = "import sys, time; from pathlib import Path; from otel_aiops.lifecycle.runs import Runs\n"
    code += "with Runs(Path(sys.argv[1])).alone('ben'): print('in', flush=True); time.sleep(60)"
    assert runs.holder() == ""
    with subprocess.Popen([sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(Overloaded, match=f"a run goes on already: process {other.pid} of ben, since 20"):
            around(made)
        assert f"process {other.pid}" in runs.holder()
        other.kill()
        other.wait()
        assert runs.holder() == "", "the lock ends with its process"
    assert around(made).state == REGISTERED


@pytest.mark.parametrize("step", ["dataset", "train", "register"])
def test_a_full_disk_is_said_and_the_run_goes_on_later(data: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    made = circle(data)
    real = getattr(module._Work, f"do_{step}")

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module._Work, f"do_{step}", full)
    with pytest.raises(StorageError, match=f"step {step}: No space left on device"):
        around(made)
    (one,) = Runs(data).list()
    assert one.state == FAILED and one.steps[-1].name == step and "No space left" in one.words
    assert left(data)["versions"] == []
    monkeypatch.setattr(module._Work, f"do_{step}", real)
    done = around(made, resume=True)
    assert done.id == one.id and done.state == REGISTERED and done.attempts == 2
    assert left(data)["temporary"] == []


def test_a_disk_that_takes_no_journal_either(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = circle(data), Runs.write

    def write(self: Runs, run: Any) -> Any:
        if run.step("train") is not None:
            raise StorageError("writing the journal: No space left on device")
        return real(self, run)

    monkeypatch.setattr(Runs, "write", write)
    with pytest.raises(StorageError, match="No space left"):
        around(made)
    monkeypatch.setattr(Runs, "write", real)
    assert around(made, resume=True).state == REGISTERED


def test_a_gate_that_says_no_leaves_a_report_and_no_version(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluate", partial(judged, found=0.1))
    done = around(circle(data))
    assert done.state == REFUSED and done.steps[-1].name == "gate" and not done.version
    assert "the gate says no" in done.words and "finds faults" in done.words
    stands = left(data)
    assert stands["versions"] == stands["models"] == [] and stands["runs"] == [done.id, f"{done.id}.json"]
    assert sorted(path.name for path in Runs(data).staging(done.id).iterdir()) == ["report.html", "report.json"]
    assert around(circle(data)).words == done.words, "asked again nothing changes"


def test_data_that_is_not_good_enough_is_refused_before_training(data: Path) -> None:
    limits = QualityLimits(min_days=100.0)
    done = around(circle(data, datasets=DatasetConfig(limits=limits)))
    assert done.state == REFUSED and done.steps[-1].name == "quality" and "not good enough" in done.words


def test_a_damaged_segment_is_left_out_and_said(data: Path) -> None:
    """One file that the disk has spoilt does not keep a service from retraining; the quality gate knows of it."""
    lenient = circle(data, datasets=DatasetConfig(limits=QualityLimits(min_rows=100, max_hours_lost=0.1)))
    journal = Journal(JournalConfig(), data)
    journal.open()
    verdict = Verdict(series=1, time_ns=START_NS + 25 * HOUR_NS, kind="false_alert", ratio=2.0, by="ana")
    journal.judged(verdict, SERIES[0])
    journal.close()
    segment = sorted((data / "segments").rglob("*.parquet"))[3]
    segment.write_bytes(segment.read_bytes()[:-20])
    assert planned(lenient, NOW_NS).series == len(SERIES)
    done = around(lenient)
    step = done.step("dataset")
    assert done.state == REGISTERED and step is not None
    assert step.words.endswith("; 1 hour left out, whose segments are damaged")
    refused = around(circle(data), resume=False)
    assert refused.state == REFUSED and "of the hours have a damaged segment" in refused.words


def stopped_at(data: Path, monkeypatch: pytest.MonkeyPatch, step: str, **more: Any) -> Any:
    """A run that stands before a step."""
    real = getattr(module._Work, f"do_{step}")

    def stop(self: Any) -> Any:
        raise Overloaded("not now")

    monkeypatch.setattr(module._Work, f"do_{step}", stop)
    with pytest.raises(Overloaded, match="not now"):
        around(circle(data, **more))
    monkeypatch.setattr(module._Work, f"do_{step}", real)
    return Runs(data).list()[0]


def test_after_a_change_of_the_configuration_a_run_begins_anew(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stopped_at(data, monkeypatch, "evaluate")
    other = EngineConfig(novelty_memory=0, seasons="off", threshold=9.0)
    changed = circle(data, pipeline=PipelineConfig(detection=other))
    with pytest.raises(BadInput, match=f"config detection changed since run {one.id} began; begin one with --new"):
        around(changed, resume=True)
    done = around(changed)
    assert done.id != one.id and done.state == REGISTERED
    given_up = Runs(data).load(one.id)
    assert given_up.state == ABANDONED and "config detection changed" in given_up.words
    assert left(data)["versions"] == [done.version] and Runs(data).staging(one.id).exists() is False
    version = Models(data / "lifecycle/models").version(done.version)
    assert version.settings.detection.threshold == 9.0
    with pytest.raises(BadInput, match="but there is none"):
        around(changed, resume=True)


def test_new_gives_an_unfinished_run_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stopped_at(data, monkeypatch, "evaluate")
    done = around(circle(data), resume=False)
    assert (done.id, done.state, done.attempts) == (one.id, REGISTERED, 1)


def test_what_is_lost_meanwhile_is_made_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from otel_aiops.lifecycle.dataset import Datasets

    one = stopped_at(data, monkeypatch, "gate")
    trained = one.step("train").outputs["version"]
    (Runs(data).staging(one.id) / "models" / trained / "report.json").unlink()
    one = stopped_at(data, monkeypatch, "gate")
    shutil.rmtree(Runs(data).staging(one.id))
    one = stopped_at(data, monkeypatch, "gate")
    Datasets.of(data).delete(one.step("dataset").outputs["dataset"])
    done = around(circle(data))
    assert done.state == REGISTERED and done.version == trained


def test_what_a_killed_training_left_is_no_obstacle(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stopped_at(data, monkeypatch, "register")
    folder = data / "lifecycle/models" / one.step("train").outputs["version"]
    folder.mkdir(parents=True)
    (folder / "series.npz").write_bytes(b"half")
    done = around(circle(data))
    assert left(data)["versions"] == [done.version]


def test_labels_of_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tmp_path / "labels.jsonl"
    with pytest.raises(BadInput, match=r"labels\.jsonl: expected a file, got No such file"):
        around(circle(data, labels=(labels,)))
    assert left(data)["runs"] == []
    labels.write_text('{"start": "2026-05-04T01:00:00Z", "end": "2026-05-04T02:00:00Z", "service": "cart"}\n')
    one = stopped_at(data, monkeypatch, "dataset", labels=(labels,))
    labels.write_text('{"start": "2026-05-04T01:00:00Z", "end": "2026-05-04T03:00:00Z", "service": "cart"}\n')
    done = around(circle(data, labels=(labels,)))
    assert done.id != one.id and "1 label" in done.steps[0].words


@pytest.mark.parametrize("how", ["down", "hangs"])
def test_a_tracking_server_that_does_not_answer(data: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The run goes on, and says so."""
    if how == "hangs":
        monkeypatch.setattr(registry, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    else:
        code = "import sys; print('registry: connection refused', file=sys.stderr); sys.exit(1)"
        monkeypatch.setattr(registry, "COMMAND", [sys.executable, "-c", code])
    config = RegistryConfig(uri=f"http://127.0.0.1:{free_port()}", timeout=1.0)
    done = around(circle(data, registry=config))
    step = done.step("register")
    assert done.state == REGISTERED and step is not None and step.outputs["registry"] is False
    assert f"otel-aiops models register {done.version}" in step.words
    assert ("no answer within 1 s" if how == "hangs" else "connection refused") in step.words


def test_a_registry_that_has_something_else_ends_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('the registry has another digest', file=sys.stderr); sys.exit(4)"
    monkeypatch.setattr(registry, "COMMAND", [sys.executable, "-c", code])
    with pytest.raises(StateError, match="another digest"):
        around(circle(data, registry=RegistryConfig()))


def test_the_order_of_a_shadow(data: Path) -> None:
    asked: list[tuple[str, str]] = []

    def busy(version: str, why: str) -> tuple[str, bool]:
        raise Overloaded("the service does not answer")

    with pytest.raises(Overloaded, match="does not answer"):
        around(circle(data, why="try"), order=busy)
    assert len(left(data)["versions"]) == 1

    def order(version: str, why: str) -> tuple[str, bool]:
        asked.append((version, why))
        return "it runs as shadow", True

    # what serves has got a name meanwhile, by the very order that was not answered
    done = around(circle(data, why="try", champion=left(data)["versions"][0]), order=order)
    assert done.state == REGISTERED and asked == [(done.version, "try")] and done.words == "it runs as shadow"


def test_who_may_be_disturbed() -> None:
    assert standing("a", "", "", "b") is None and standing("a", "c", "shadow", "b") is None
    assert standing("b", "", "", "b") == ("b is the champion already", True)
    assert standing("a", "b", "canary", "b") == ("b runs as canary already", True)
    for role in ("canary", "former"):
        words, ordered = standing("a", "c", role, "b") or ("", True)
        assert not ordered and "otel-aiops rollout shadow b" in words


def test_the_plan_says_what_will_be_done(data: Path) -> None:
    objective = Objective(name="carts", match={"service": "cart"}, budget="2/week")
    made = circle(data, objective=objective, why="a look", settings="tuned")
    plan = planned(made, NOW_NS)
    text = "\n".join(plan.lines(made))
    assert "2026-05-03 14:00 to 2026-05-04 20:00 (30 h) of all 6 series" in text and ": a look" in text
    assert "the 3 series of objective carts, under its budget of 2/week" in text and "no champion" in text
    assert "the best of 24 that are tried" in text and Plan.from_json(plan.to_json()) == plan
    assert planned(replace(made, who="ben", why="other"), NOW_NS).id == plan.id
    assert not (data / "lifecycle").exists(), "a plan writes nothing"
    with pytest.raises(StateError, match="expected a plan"):
        Plan.from_json({})
    with pytest.raises(BadInput, match="settings: expected one of config, champion, tuned, got 'x'"):
        circle(data, settings="x")
    with pytest.raises(BadInput, match="expected one of none"):
        planned(circle(data, champion="f" * 16), NOW_NS)


def test_settings_of_the_champion(data: Path) -> None:
    first = around(circle(data)).version
    other = EngineConfig(novelty_memory=0, seasons="off", threshold=9.0)
    changed = {"pipeline": PipelineConfig(detection=other), "champion": first}
    second = around(circle(data, settings="champion", **changed))
    version = Models(data / "lifecycle/models").version(second.version)
    assert version.settings.detection.threshold != 9.0 and version.lineage.parent == first


FEW = TuneConfig(trials=5, max_series=2)


def tuned(directory: Path) -> Circle:
    return circle(directory, settings="tuned", tuning=FEW)


def test_a_search_that_is_killed_after_any_trial_goes_on_and_ends_alike(data: Path, tmp_path: Path) -> None:
    """In processes that are really killed, each just after it has kept one more judgement."""
    import shutil

    whole = around(tuned(Path(shutil.copytree(data, tmp_path / "whole"))))
    settings = whole.step("settings")
    assert settings is not None
    assert sorted(one["number"] for one in settings.outputs["trials"]) == list(range(5))
    needed = sum(one["folds"] for one in settings.outputs["trials"])
    write, kept = Tried.write, []

    def killed() -> None:
        def one(self: Tried, *judgement: Any) -> None:
            write(self, *judgement)
            os.kill(os.getpid(), signal.SIGKILL)

        Tried.write = one  # type: ignore[method-assign]
        around(tuned(data))

    while (code := alone(killed)) == -signal.SIGKILL:
        (run,) = Runs(data).list()
        assert run.state == RUNNING and run.steps[-1].name == "settings" and left(data)["versions"] == []
        kept.append(len(list((Runs(data).staging(run.id) / TRIALS).glob("*.json"))))
    assert code == 0, "at last there is nothing more to keep"
    assert kept == list(range(1, needed + 1)), "each attempt has judged one thing, and none of those before"
    done = Runs(data).list()[0]
    assert (done.state, done.version, done.attempts) == (REGISTERED, whole.version, needed + 1)
    assert done.step("settings").outputs == settings.outputs  # type: ignore[union-attr]
    assert not Runs(data).staging(done.id).exists()


def test_what_a_search_has_judged_goes_with_a_run_that_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluate", partial(judged, found=0.1))
    done = around(tuned(data))
    assert done.state == REFUSED
    assert sorted(path.name for path in Runs(data).staging(done.id).iterdir()) == ["report.html", "report.json"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow's own code
def test_trials_of_a_run_are_runs_of_mlflow(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = around(replace(tuned(data), registry=RegistryConfig(timeout=120), why="try"))
    settings = done.step("settings")
    assert settings is not None and "tracked" not in settings.words
    store = registry.Registry(data, RegistryConfig())
    with store._client() as client:
        runs = client.search_runs([store._experiment(client)])
    names = sorted(one.info.run_name for one in runs)
    dataset = done.steps[0].outputs["dataset"]
    assert [name for name in names if name.startswith("t")] == [*(f"trial {k}" for k in range(5)), f"tune {dataset}"]
    (search,) = (one for one in runs if one.info.run_name == f"tune {dataset}")
    assert (search.info.status, search.data.params["run"], search.data.params["why"]) == ("FINISHED", done.id, "try")


def test_a_tracker_that_does_not_answer_is_told_of(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(registry, "COMMAND", [sys.executable, "-c", "import sys; sys.exit(1)"])
    done = around(replace(tuned(data), registry=RegistryConfig(timeout=0.5)))
    words = done.step("settings").words  # type: ignore[union-attr]
    assert done.state == REGISTERED and words.startswith("trial ") and "not all is tracked in MLflow" in words


def test_the_champion_that_a_journal_tells() -> None:
    def order(action: str, version: str = "", champion: str = "") -> Rollout:
        return Rollout(action=Action(action), version=version, champion=champion, share=0.5)

    assert champion_of([]) == ""
    orders = [order("shadow", "b", "a"), order("canary", "b")]
    assert champion_of(orders) == champion_of([*orders, order("rollback")]) == "a"
    promoted = [*orders, order("promote", "b")]
    assert champion_of(promoted) == "b" and champion_of([*promoted, order("rollback")]) == "a"
    settled = [*promoted, order("stop")]
    assert champion_of(settled) == "b" and champion_of([*settled, order("rollback")]) == "a"


def test_what_the_journal_knows(data: Path) -> None:
    """Verdicts are counted and become cases, and the champion is the one that was promoted."""
    first = around(circle(data)).version
    before = planned(circle(data), NOW_NS)
    journal = Journal(JournalConfig(), data)
    journal.open()
    at_ns = START_NS + 25 * 3600 * 1_000_000_000
    journal.judged(Verdict(series=1, time_ns=at_ns, kind="false_alert", ratio=2.0, by="ana"), SERIES[0])
    for action in ("shadow", "promote"):
        journal.rolled(Rollout(action=Action(action), version=first, champion="", time_ns=at_ns, who="ana"))
    journal.close()
    plan = planned(circle(data), NOW_NS)
    assert (before.verdicts, plan.verdicts) == (0, 1) and plan.id != before.id
    assert champion_in(data, JournalConfig()) == first
    cases = Cases.of(data)
    freeze(data, JournalConfig(), cases)
    assert len(cases.list()) <= 1
    second = around(circle(data, champion=first))
    assert second.state == REGISTERED and second.version != first
    made = Models(data / "lifecycle/models").version(second.version)
    assert made.lineage.parent == first and "1 verdicts" in "\n".join(plan.lines(circle(data)))


def test_an_old_unfinished_run_is_not_gone_on_with_by_itself(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stopped_at(data, monkeypatch, "evaluate")
    late = planned(circle(data), NOW_NS)
    later = replace(late, end_ns=late.end_ns + 2 * 86_400_000_000_000)
    runs = Runs(data)
    with runs.alone(""):
        begun(runs, later, circle(data), resume=None, now_ns=NOW_NS + 1)
    assert runs.load(one.id).state == ABANDONED and "more than a day of data" in runs.load(one.id).words


def test_journals_that_cannot_be_read(data: Path) -> None:
    done = around(circle(data))
    runs = Runs(data)
    for text, problem in (("{", "expected JSON"), ("{}", "expected format 1"), ('{"format": 1}', "expected a journal")):
        runs.path("f" * 16).write_text(text)
        with pytest.raises(StateError, match=problem):
            runs.load("f" * 16)
    assert [one.id for one in runs.list()] == [done.id]
    for name, problem in (("x", "16 hexadecimal"), ("e" * 16, "no run has the id")):
        with pytest.raises(BadInput, match=problem):
            runs.load(name)
