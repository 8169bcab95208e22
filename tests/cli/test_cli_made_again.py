"""From an artifact's record back to work: exported as a node of its own, or made again beside the store and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli

from orchestrator import api
from orchestrator.cli.export import FORMATS
from orchestrator.report.reproduction import judge
from orchestrator.workflow.spelled import spell_out
from stages.catalog import all_stages

MODEL = """\
version: 1
name: model
nodes:
  base:
    stage: pretrain.classifier
    params: {model: cnn_micro, data: {name: synthetic, num_train: 64, num_test: 32}, epochs: 1, batch_size: 32}
"""


def record_of(label: str, run: str = "@last") -> Any:
    workspace = api.open_workspace()
    node = api.status(run, workspace=workspace).nodes[label]
    return workspace.artifacts.find(node.stage, node.key)


@pytest.mark.parametrize("label", ["last", "middle[value=2]"])
def test_a_record_is_spelled_out_as_a_workflow_with_the_same_keys(cli: Cli, finished: str, label: str) -> None:
    record = record_of(label)
    spelled = spell_out(record, api.open_workspace().artifacts)
    Path("spelled.yaml").write_text(spelled.text)
    plan = cli("plan", "spelled.yaml", "--json").document
    assert {node["key"] for node in plan["nodes"]} == set(spelled.records)
    assert {node["status"] for node in plan["nodes"]} == {"HIT"}


def test_an_artifact_is_made_again_beside_the_store_and_is_identical(cli: Cli, finished: str) -> None:
    before = sorted(path.name for path in Path(".orchestrator/runs").iterdir())
    answer = cli("reproduce", "@last/last", "--executor", "inline")
    assert answer.code == 0, answer.err
    assert [line.split()[0] for line in answer.out.splitlines()[1:5]] == ["identical"] * 4
    assert answer.out.splitlines()[-1].endswith(": identical")
    assert sorted(path.name for path in Path(".orchestrator/runs").iterdir()) == before, "the store is only read"
    document = cli("reproduce", "@last/last", "--executor", "inline", "--json").document
    assert document["result"] == "identical"
    assert len(document["artifacts"]) == 4


def test_from_its_inputs_one_artifact_alone_is_made_again(cli: Cli, finished: str) -> None:
    answer = cli("reproduce", "@last/last", "--from-inputs", "--scratch", "there", "--executor", "inline", "--json")
    assert answer.code == 0, answer.err
    assert [each["node"] for each in answer.document["artifacts"]] == ["last"]
    events = [line for file in Path("there/runs").glob("*/events.jsonl") for line in file.read_text().splitlines()]
    assert sum(json.loads(line)["type"] == "node_done" for line in events) == 1


def test_what_comes_out_otherwise_exits_with_5_and_says_what(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.contract import StageContext, StageResult

    def other(context: StageContext) -> StageResult:
        (context.output / "value.json").write_text("7")
        return StageResult(metrics={"value": 7})

    monkeypatch.setattr("stages.probe.echo.echo", other)
    answer = cli("reproduce", "@last/first", "--executor", "inline")
    assert answer.code == 5
    assert answer.out.splitlines()[-1].endswith(": different")
    assert "value 3 -> 7" in answer.out


def test_an_accuracy_within_its_interval_is_told_from_one_beyond(cli: Cli, finished: str) -> None:
    from dataclasses import replace

    record = record_of("first")

    def measured(right: int, **more: float) -> Any:
        metrics = {"top1_accuracy": right / 400, "num_correct": right, "num_test": 400, **more}
        return replace(record, metrics=metrics, content_digest=f"{right}{more}")

    assert judge("x", measured(380), measured(377)).word == "within interval"
    assert judge("x", measured(380), measured(300)).word == "different"
    assert judge("x", measured(380), measured(377, size_bytes=3)).word == "different", "sizes are exact"
    assert judge("x", measured(380), measured(380)).word == "identical"
    assert judge("x", measured(380), None).word == "different"


def test_an_artifact_of_other_code_is_refused_with_the_reason(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from stages import catalog

    spec = replace(catalog.all_stages()["probe.echo"], version=99)
    monkeypatch.setattr(catalog, "all_stages", lambda: {**all_stages(), "probe.echo": spec})
    monkeypatch.setattr(catalog, "find_stage", lambda name: spec)
    for module in ("orchestrator.workflow.spelled", "orchestrator.workflow.check_nodes"):
        monkeypatch.setattr(f"{module}.find_stage", lambda name: spec, raising=False)
    answer = cli("reproduce", "@last/first", "--executor", "inline")
    assert answer.code == 2
    assert "its version was 1 and is 99" in answer.err


def test_what_fails_the_second_time_exits_with_3(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr("stages.probe.echo.echo", broken)
    answer = cli("reproduce", "@last/first", "--executor", "inline")
    assert answer.code == 3
    assert "could not be made again: node first failed: " in answer.err


def test_a_sweep_cannot_be_spelled_out(cli: Cli, searched: str) -> None:
    key = cli("status", searched, "--json").document["run"]["sweeps"][0]["key"]
    answer = cli("reproduce", key, "--executor", "inline")
    assert answer.code == 2
    assert "was made by no stage" in answer.err
    assert cli("reproduce", f"{searched}/search/best/score", "--executor", "inline").code == 0, "its trials can"


def test_a_model_is_exported_as_a_node_and_is_a_hit_the_second_time(cli: Cli) -> None:
    Path("model.yaml").write_text(MODEL)
    assert cli("submit", "model.yaml", "--executor", "inline").code == 0
    key = record_of("base").key
    answer = cli("export", "@last/base", "--format", "packed", "--set", "verify_samples=4", "--json")
    assert answer.code == 0, answer.err
    assert [node["status"] for node in answer.lines[0]["nodes"]] == ["HIT", "RUN"]
    assert answer.lines[0]["nodes"][1]["stage"] == "export.packed"
    again = cli("export", key, "--format", "packed", "--set", "verify_samples=4")
    assert again.err.startswith("nothing to do: ")
    assert "orchestrator artifacts get " in again.err
    request = cli("status", "@last", "--json").document["run"]["request"]
    assert request["origin"] == {"export_of": key}
    assert cli("reproduce", "@last/export", "--from-inputs", "--executor", "inline").code == 0


def test_an_imported_model_is_exported_and_what_is_made_of_it_can_be_made_again(cli: Cli) -> None:
    Path("model.yaml").write_text(MODEL)
    cli("submit", "model.yaml", "--executor", "inline")
    cli("artifacts", "get", "@last/base", "bundle")
    imported = cli("artifacts", "import", "bundle", "--name", "mine").out.strip()
    answer = cli("export", "mine", "--format", "packed", "--json")
    assert answer.code == 0, answer.err
    again = cli("reproduce", "@last/export", "--executor", "inline", "--json")
    assert again.code == 0, again.err
    assert [each["result"] for each in again.document["artifacts"]] == ["identical"]
    assert "was made by no stage" in cli("reproduce", imported).err


def test_a_record_that_does_not_say_where_its_data_lie_is_refused_with_the_way_on(cli: Cli, finished: str) -> None:
    from dataclasses import replace

    from orchestrator.errors import UsageError
    from orchestrator.workflow.smoke import is_complete_data
    from orchestrator.workflow.spelled import check_spelled

    record = record_of("first")
    settings = {"model": "cnn_micro", "data": {"name": "folder", "image_size": 8}}
    other = replace(record, stage="pretrain.classifier", identity={**record.identity, "settings": settings, "inputs": {}})
    with pytest.raises(UsageError, match=r"the records do not hold all that making .* again takes") as caught:
        check_spelled(spell_out(other, api.open_workspace().artifacts), file="x")
    assert f"orchestrator resume {finished}" in caught.value.next_step
    assert not is_complete_data(settings["data"])
    assert is_complete_data("digits")


def test_what_is_no_model_is_not_exported(cli: Cli, finished: str) -> None:
    answer = cli("export", "@last/first")
    assert answer.code == 2
    assert "an export takes a model" in answer.err


def test_every_export_stage_is_a_format() -> None:
    assert set(FORMATS.values()) == {name for name in all_stages() if name.startswith("export.")}
