"""Data sets of images in whole workflows: what makes a key, what a plan says, what a run refuses."""

import json

import pytest

from orchestrator.errors import PlanError
from orchestrator.workflow.plan import Status
from tests.stages.data.support import make_old, write_folder, write_image

VIEW = "image_size: 8, crop: 1.0, num_workers: 0"
TRAIN = """
    version: 1
    name: images
    nodes:
      pretrain:
        stage: pretrain.classifier
        params: {{model: cnn_micro, data: {{name: folder, path: {path}, {view}}}, epochs: 1, batch_size: 4}}
"""
PACKED = """
    version: 1
    name: images
    nodes:
      pack: {{stage: data.pack, params: {{data: {{name: folder, path: {path}}}, rows_per_group: 4}}}}
      pretrain:
        stage: pretrain.classifier
        inputs: {{data: pack}}
        params:
          {{model: cnn_micro, epochs: 1, batch_size: 4,
           data: {{name: packed, {view}, augment: {{crop_scale: [0.5, 1], flip: 0.5, mixup: 0.2}}}}}}
      sparsify:
        stage: sparsify.magnitude
        inputs: {{model: pretrain, data: pack}}
        params: {{n_m: "2:4", data: {{name: packed, {view}}}}}
      export:
        stage: export.onnx
        inputs: {{model: sparsify, data: pack}}
        params: {{data: {{name: packed, {view}}}, verify_samples: 4}}
      evaluate:
        stage: evaluate.classifier
        inputs: {{model: sparsify, exported: export, data: pack}}
        params: {{data: {{name: packed, {view}}}, latency_seconds: 0}}
"""


def written(template, path):
    return template.format(path=path, view=VIEW)


def test_the_content_makes_the_key_and_the_place_does_not(tmp_path, plan_text, run_text):
    root = write_folder(tmp_path / "images")
    result = run_text(written(TRAIN, root))
    assert result.status.nodes["pretrain"].state == "done", result.status.nodes["pretrain"].trace
    moved = root.rename(tmp_path / "moved")
    assert plan_text(written(TRAIN, moved)).nodes["pretrain"].status is Status.HIT
    with_workers = written(TRAIN, moved).replace("num_workers: 0", "num_workers: 2")
    assert plan_text(with_workers).nodes["pretrain"].status is Status.HIT
    write_image(moved / "train" / "cat" / "000.png", 5)
    assert plan_text(written(TRAIN, moved)).nodes["pretrain"].status is Status.RUN


def test_a_packed_folder_feeds_every_stage_through_its_port(tmp_path, run_text, plan_text, workspace):
    root = write_folder(tmp_path / "images", train=24)
    result = run_text(written(PACKED, root))
    for name, node in result.status.nodes.items():
        assert node.state == "done", (name, node.trace)
    assert result.status.nodes["pack"].metrics["num_train"] == 24
    plan = plan_text(written(PACKED, root))
    evaluation = workspace.artifacts.find("evaluate.classifier", plan.nodes["evaluate"].key)
    assert evaluation.metrics["num_samples"] == 6
    described = json.loads(workspace.artifacts.open(evaluation).file("evaluation.json").read_text())
    assert result.status.nodes["pack"].metrics["content_digest"] in described["data"], "else other data would compare as equal"
    write_image(root / "test" / "dog" / "001.png", 7)
    assert {node.status for node in plan_text(written(PACKED, root)).nodes.values()} == {Status.RUN}


def test_a_plan_says_what_is_wrong_with_the_data(tmp_path, plan_text):
    with pytest.raises(PlanError, match=r'node "pretrain": its data cannot be identified: no folder .*nowhere'):
        plan_text(written(TRAIN, tmp_path / "nowhere"))


def test_images_that_change_between_plan_and_run_stop_the_run(tmp_path, plan_text, workspace):
    """Kept under the key of the old images, the new ones' result would be taken for theirs for ever."""
    from orchestrator import api

    root = write_folder(tmp_path / "images")
    plan = plan_text(written(TRAIN, root))
    changed = root / "train" / "cat" / "000.png"
    write_image(changed, 9)
    make_old(changed)
    result = api.submit(plan, workspace=workspace, executor="inline")
    assert "not those of the plan" in result.status.nodes["pretrain"].error


def test_data_that_only_check_an_export_are_in_its_key_too(tmp_path, plan_text):
    root = write_folder(tmp_path / "images")
    text = (
        written(TRAIN, root)
        + f"""
      export: {{stage: export.onnx, inputs: {{model: pretrain}}, params: {{data: {{name: folder, path: {root}, {VIEW}}}}}}}
    """
    )
    before = plan_text(text).nodes["export"].identity
    write_image(root / "test" / "cat" / "000.png", 5)
    after = plan_text(text).nodes["export"].identity
    assert before["data"] != after["data"]
