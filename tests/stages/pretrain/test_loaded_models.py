"""Models taken as they are: from a file, to other classes; through the engine, with keys that follow the file's content."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from orchestrator import api
from orchestrator.errors import PlanError, WorkflowError
from orchestrator.report.problems import format_problems
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.smoke import smoke_overrides
from stages.models.bundle import load_bundle
from stages.models.zoo import build_network, find_architecture
from stages.ops.input_spec import InputSpec

SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
LOAD = {"stage": "pretrain.load", "params": {"model": "cnn_micro", "data": "digits", "weights": "file", "weights_file": "w.pt"}}


def network(seed):
    names = tuple(str(digit) for digit in range(10))
    return build_network(find_architecture("cnn_micro", {}, input_spec=SPEC, class_names=names), seed=seed)


def text(**nodes):
    return yaml.safe_dump({"version": 1, "name": "loaded", "nodes": nodes}, sort_keys=False)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def test_a_model_from_a_file_is_that_model_and_goes_on_to_other_stages(run_text, workspace):
    model = network(3)
    torch.save({"state_dict": model.state_dict(), "epoch": 12}, "w.pt")
    tuned = {"stage": "finetune.classifier", "inputs": {"model": "load"}, "params": {"data": "digits", "epochs": 1}}
    result = run_text(text(load=LOAD, tuned=tuned))
    nodes = result.status.nodes
    assert result.state is api.State.DONE, nodes["load"].trace
    record = workspace.artifacts.find("pretrain.load", nodes["load"].key)
    assert record is not None
    loaded = load_bundle(workspace.artifacts.open(record)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    assert nodes["tuned"].metrics["top1_accuracy"] > nodes["load"].metrics["top1_accuracy"]


def test_the_key_follows_what_the_file_holds_and_not_where_it_lies(plan_text, tmp_path):
    keys = []
    for folder, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / folder).mkdir()
        save_file(network(seed).state_dict(), tmp_path / folder / "w.safetensors")
        plan = plan_text(text(load=LOAD), overrides=[f"load.params.weights_file={folder}/w.safetensors"])
        keys.append(plan.nodes["load"].key)
    assert keys[0] == keys[1] != keys[2]


def test_a_file_that_is_not_there_is_named_before_anything_runs(plan_text):
    with pytest.raises(PlanError, match=r"w\.pt: cannot be read"):
        plan_text(text(load=LOAD))


@pytest.mark.parametrize("params", [{"weights": "file"}, {"weights_file": "w.pt"}])
def test_a_file_and_the_wish_for_one_belong_together(plan_text, params):
    node = {"stage": "pretrain.load", "params": {"model": "cnn_micro", "data": "digits", **params}}
    with pytest.raises(WorkflowError) as raised:
        plan_text(text(load=node))
    assert "belong together; set both or neither" in format_problems(raised.value.problems)


def test_a_smoke_run_needs_no_weights(run_text, plan_text):
    """They may be on another machine, and a few random images have other classes."""
    checked = check_workflow(load_text(text(load={**LOAD, "params": {**LOAD["params"], "data": "digits"}}), file="w.yaml"))
    result = run_text(text(load=LOAD), overrides=smoke_overrides(checked))
    assert result.state is api.State.DONE, result.status.nodes["load"].trace


def test_a_trained_model_is_taken_to_larger_images_and_other_classes(run_text):
    other = {"name": "synthetic", "height": 16, "width": 16, "num_classes": 3, "num_train": 8, "num_test": 4}
    before = {"stage": "pretrain.load", "params": {"model": "cnn_micro", "data": "digits", "weights": "random"}}
    after = {"stage": "pretrain.transfer", "inputs": {"model": "before"}, "params": {"data": other, "head": "new"}}
    nodes = run_text(text(before=before, after=after)).status.nodes
    assert nodes["after"].state == "done", nodes["after"].trace
    assert nodes["after"].metrics["gmacs"] > 3 * nodes["before"].metrics["gmacs"]
    assert nodes["after"].metrics["num_parameters"] == nodes["before"].metrics["num_parameters"] - 7 * 33
    kept = run_text(text(before=before, after={**after, "params": {"data": other}})).status.nodes["after"]
    assert kept.state == "failed"
    assert "set head: new" in (kept.error or kept.trace)
