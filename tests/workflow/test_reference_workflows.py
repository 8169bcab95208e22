"""The recipes for ImageNet: each is planned as it stands, over a stand-in for the data, and run as `--smoke` runs it."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from orchestrator import api

FOLDER = Path(__file__).parents[2] / "workflows" / "reference"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the recipes look for beside them: images of two classes, and a file of weights."""
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (tmp_path / "imagenet" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "imagenet" / split / name / "one.JPEG")
    torch.save({}, tmp_path / "mae_finetuned_vit_large.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_plans_and_says_what_it_takes(name, here, workspace):
    plan = api.plan(str(FOLDER / name), workspace=workspace)
    assert all(node.status is api.Status.RUN for node in plan.nodes.values())
    header = (FOLDER / name).read_text().partition("version:")[0]
    assert f"# orchestrator submit workflows/reference/{name}\n" in header
    for word in ("Data:", "Hardware:", "Expected", "arXiv", "Not run by us", "--smoke"):
        assert word in header


SMALLER = {
    "resnet18": "resnet10t",
    "resnet50": "resnet26",
    "deit_small_patch16_224": "deit_tiny_patch16_224",
    "deit_base_patch16_224": "deit_tiny_patch16_224",
    "vit_large_patch16_224": "vit_tiny_patch16_224",
}
"""Networks with the same kinds of layers and numbers of tokens, so that two cores take seconds for a recipe, not minutes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_recipe_runs_on_tiny_data(name, here, workspace):
    """Every node of it, one pattern where there are several, with a smaller network of the same family."""
    nodes = api.load(str(FOLDER / name)).loaded.workflow.nodes
    overrides = [
        f"{label}.params.model={SMALLER[node.params['model'].partition('.')[0]]}"
        for label, node in nodes.items()
        if node.stage == "pretrain.load"
    ]
    file = here / name
    file.write_text(re.sub(r"foreach: {n_m: .*}", 'foreach: {n_m: ["1:8"]}', (FOLDER / name).read_text()))
    plan = api.plan(str(file), workspace=workspace, overrides=overrides, smoke=True)
    result = api.submit(plan, workspace=workspace, executor="inline")
    failed = {label: node.error or node.trace for label, node in result.status.nodes.items() if node.state == "failed"}
    assert result.state is api.State.DONE, failed
