"""The recipes for ImageNet: each is planned as it stands, over a stand-in for the data, and run as `--smoke` runs it."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from orchestrator import api
from stages.ops.nm import kept_combinations

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


@pytest.mark.recipes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FILES)
def test_a_recipe_runs_at_full_size_on_tiny_data(name, tmp_path, workspace):
    """As a user tries it: the file as it stands, with `--smoke`, and nothing of what it reads on this machine."""
    run_smoke(FOLDER / name, workspace=workspace)


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
    run_smoke(file, workspace=workspace, overrides=overrides)


def run_smoke(file, *, workspace, overrides=()):
    plan = api.plan(str(file), workspace=workspace, overrides=overrides, smoke=True)
    result = api.submit(plan, workspace=workspace, executor="inline")
    failed = {label: node.error or node.trace for label, node in result.status.nodes.items() if node.state == "failed"}
    assert result.state is api.State.DONE, failed


LBC = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "batch_size": 256, "weight_decay": 1e-4, "epochs": 120}
DIFFRATE = {"epochs": 3, "learning_rate": 0.01, "final_learning_rate": 0.001, "granularity": 4, "label_smoothing": 0.1}
PUBLISHED = {
    "resnet18_lbc.yaml": ("lbc[n_m=2:4]", {**LBC, "score_weight_decay": 1e-4, "label_smoothing": 0.1, "removal_power": 3.0}),
    "resnet50_lbc.yaml": ("lbc[n_m=1:16]", {**LBC, "score_weight_decay": 1e-4, "label_smoothing": 0.1, "removal_power": 3.0}),
    "deit_s_lbc_2_4.yaml": (
        "lbc",
        {"optimizer": "adamw", "batch_size": 1024, "learning_rate": 5e-4 * 1024 / 512, "epochs": 300, "removal_power": 4.0,
         "weight_decay": 0.05, "score_weight_decay": 0.05},
    ),
    "resnet18_lts.yaml": (
        "lts_w2a2",
        {**LBC, "epochs": 100, "schedule": "steps", "decay_at": (0.3, 0.6, 0.9), "bound_learning_rate": 1e-4, "weight_bits": 2,
         "activation_bits": 2, "end_layers": "same", "bounds_init": "reference", "threshold_mode": "linear_growth",
         "freeze_warmup": 0.2, "distance_momentum": 0.9999, "label_smoothing": 0.0},
    ),
    "deit_s_diffrate.yaml": ("diffrate", {**DIFFRATE, "batch_size": 1024}),
    "deit_b_diffrate.yaml": ("diffrate", DIFFRATE),
    "mae_l_diffrate.yaml": ("diffrate", DIFFRATE),
}  # fmt: skip
"""What the papers and their code say, defaults of ours that the recipes rest on among it."""


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_has_the_published_settings(name, here, workspace):
    label, published = PUBLISHED[name]
    settings = api.plan(str(FOLDER / name), workspace=workspace).nodes[label].settings
    assert {field: getattr(settings, field) for field in published} == published


@pytest.mark.parametrize(("name", "end"), [("resnet18_lbc", 60), ("resnet50_lbc", 60), ("deit_s_lbc_2_4", 200)])
def test_lbc_is_exactly_n_m_from_the_authors_epoch_on(name, end, here, workspace):
    """A share of the epochs that is a hair too large would leave two combinations for one epoch more."""
    label, _ = PUBLISHED[f"{name}.yaml"]
    settings = api.plan(str(FOLDER / f"{name}.yaml"), workspace=workspace).nodes[label].settings
    schedule = {"start": settings.first_removal_epoch, "end": settings.last_removal_epoch, "power": settings.removal_power}
    kept = [kept_combinations(epoch, num_combinations=6, **schedule) for epoch in (end - 1, end)]
    assert kept == [2, 1]
