"""References to artifacts that the store holds: by name, by version, by key; what counts is the artifact's key alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import api
from orchestrator.errors import WorkflowError
from orchestrator.store.artifacts import Record
from orchestrator.store.names import Names
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, Status

MAKER = "version: 1\nname: maker\nnodes:\n  made: {{stage: probe.echo, params: {{value: {value}}}}}\n"
USER = "version: 1\nname: user\nnodes:\n  after: {{stage: probe.echo, inputs: {{inputs: ['{text}']}}}}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    return api.open_workspace(str(tmp_path / "store"))


def plan(text: str, workspace: api.Workspace) -> Plan:
    return api.plan_checked(check_workflow(load_text(text, file="user.yaml")), workspace=workspace)


def problem_of(text: str, workspace: api.Workspace) -> str:
    with pytest.raises(WorkflowError) as caught:
        plan(text, workspace)
    return caught.value.problems[0].what


def run(text: str, workspace: api.Workspace) -> api.RunResult:
    return api.submit(plan(text, workspace), workspace=workspace, executor="inline")


def make(workspace: api.Workspace, value: object = 1) -> Record:
    run(MAKER.format(value=value), workspace)
    return next(record for record in workspace.artifacts.all_records() if record.identity["settings"] == {"value": value})


def test_a_node_takes_an_artifact_by_name_by_version_and_by_key(workspace) -> None:
    """What somebody has promoted, or imported, is where others begin."""
    first, second = make(workspace, 1), make(workspace, 2)
    names = Names(workspace.store)
    names.promote(first, "base")
    names.promote(second, "base")
    for text, record in (("base", second), ("base@1", first), ("base@2", second), (first.key[:8], first), (first.key, first)):
        made = plan(USER.format(text=f"artifact:{text}"), workspace)
        assert made.nodes["after"].identity["inputs"] == {"inputs": [record.key]}
        assert made.nodes[f"artifact:{text}"].status is Status.HIT
    assert run(USER.format(text="artifact:base@1"), workspace).state.value == "done"
    assert plan(USER.format(text=f"artifact:{first.key[:9]}"), workspace).nodes["after"].status is Status.HIT


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.from_regex(r"[g-z][a-z0-9._-]{0,20}", fullmatch=True), min_size=1, max_size=4), st.integers(0, 3))
def test_the_key_depends_on_the_artifacts_key_alone(tmp_path_factory, given_names: list[str], others: int) -> None:
    """Renaming, promoting again, or writing the node that made it in its place must make nothing run again."""
    workspace = api.open_workspace(str(tmp_path_factory.mktemp("store")))
    record = make(workspace, "x")
    names = Names(workspace.store)
    for value in range(others):
        names.promote(make(workspace, value), given_names[0])
    versions = [str(names.promote(record, name)) for name in given_names]
    texts = [*given_names, *versions, record.key, record.key[:8]]
    keys = {plan(USER.format(text=f"artifact:{text}"), workspace).nodes["after"].key for text in texts}
    both = MAKER.format(value="x") + "  after: {stage: probe.echo, inputs: {inputs: [made]}}\n"
    assert keys == {plan(both, workspace).nodes["after"].key}


def test_a_reference_to_nothing_says_where_and_what_is_near(workspace) -> None:
    """A typing error in a name is told like any other: with its line and the nearest names."""
    Names(workspace.store).promote(make(workspace), "vit-sparse")
    with pytest.raises(WorkflowError) as caught:
        plan(USER.format(text="artifact:vit-spares"), workspace)
    problem = caught.value.problems[0]
    assert (problem.file, problem.line) == ("user.yaml", 4)
    assert "vit-spares" in problem.what
    assert "vit-sparse" in problem.suggestion
    for text in ("vit-sparse@7", "0123456789abcdef"):
        assert "has no artifact" in problem_of(USER.format(text=f"artifact:{text}"), workspace)


@pytest.mark.parametrize(
    "text", ["artifact:", "artifact:V", "artifact:a@0", "artifact:abc ", "artifact:../x", "artifact:a@b@1"]
)
def test_what_can_be_no_reference_is_told_without_a_store(text: str) -> None:
    """`validate` opens none."""
    with pytest.raises(WorkflowError) as caught:
        check_workflow(load_text(USER.format(text=text), file="user.yaml"))
    assert "cannot be the name or the key" in caught.value.problems[0].what


def test_an_artifact_of_another_kind_is_refused_with_both_kinds(workspace) -> None:
    """A stage that wants a model must not find out after an hour that it got something else."""
    Names(workspace.store).promote(make(workspace), "no-model")
    text = (
        "version: 1\nname: user\nnodes:\n  tuned:\n    stage: finetune.classifier\n"
        "    inputs: {model: artifact:no-model}\n    params: {data: {name: digits}}\n"
    )
    with pytest.raises(WorkflowError) as caught:
        plan(text, workspace)
    problem = caught.value.problems[0]
    assert problem.line == 6
    assert "model" in problem.expected
    assert "no-model@1" in problem.found


def test_foreach_takes_artifacts_and_nodes_alike(workspace) -> None:
    """Two promoted models are compared with what this file makes."""
    for value in (1, 2):
        Names(workspace.store).promote(make(workspace, value), f"given{value}")
    text = (
        "version: 1\nname: user\nnodes:\n  own: {stage: probe.bytes, params: {size: 3}}\n"
        "  after: {stage: probe.bytes, params: {size: 5}, foreach: {input: ['artifact:given1', 'artifact:given2@1', own]}}\n"
    )
    made = plan(text, workspace)
    assert sorted(label for label in made.nodes if label.startswith("after")) == [
        "after[input=artifact:given1]",
        "after[input=artifact:given2@1]",
        "after[input=own]",
    ]


def test_trials_of_a_sweep_take_an_artifact_and_a_promotion_meanwhile_changes_nothing(workspace, monkeypatch) -> None:
    """A name means one artifact for a whole run, or its trials could not be compared."""
    record, other = make(workspace, 1), make(workspace, 2)
    names = Names(workspace.store)
    names.promote(record, "base")
    text = """
version: 1
name: search
nodes:
  search:
    sweep:
      sampler: grid
      space: {score.value: {choice: [1, 2, 3]}}
      objectives: {score.value: maximize}
    nodes:
      score: {stage: probe.echo, inputs: {inputs: ['artifact:base']}}
  last: {stage: probe.echo, inputs: {inputs: [search.best.score, 'artifact:base']}}
"""
    made = plan(text, workspace)
    names.promote(other, "base")
    result = api.submit(made, workspace=workspace, executor="inline")
    assert result.state.value == "done"
    used = {key for each in workspace.artifacts.all_records("probe.echo") for key in each.input_digests}
    assert other.key not in {*used}
    last = next(each for each in workspace.artifacts.all_records() if each.label == "last")
    assert last.identity["inputs"]["inputs"][1] == record.key


def test_an_artifact_whose_content_is_gone_fails_what_needs_it_and_is_not_made(workspace) -> None:
    """No node of the file can make it: the run must say so, and not try for ever."""
    text = "version: 1\nname: bytes\nnodes:\n  b: {stage: probe.bytes, params: {size: 9}}\n"
    run(text, workspace)
    record = next(workspace.artifacts.all_records())
    user = "version: 1\nname: user\nnodes:\n  after: {stage: probe.bytes, params: {size: 5}, inputs: {input: 'artifact:KEY'}}\n"
    made = plan(user.replace("KEY", record.key[:12]), workspace)
    file = next(iter(record.files.values()))
    path = workspace.store.blob_path(file.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * file.size_bytes)
    result = api.submit(made, workspace=workspace, executor="inline")
    assert result.state.value == "failed"
    assert result.status.nodes["after"].state == "failed"
    assert workspace.artifacts.find(record.stage, record.key) is None
    assert "has no artifact" in problem_of(user.replace("KEY", record.key[:12]), workspace)


def test_rerun_of_all_that_drifted_leaves_it_alone(workspace) -> None:
    """It is not made by this file, whatever code stands here now."""
    record = make(workspace)
    text = USER.format(text=f"artifact:{record.key}")
    checked = check_workflow(load_text(text, file="user.yaml"))
    made = api.plan_checked(checked, workspace=workspace, selection=api.Selection(rerun=("drifted", "after")))
    assert {label: node.status for label, node in made.nodes.items()} == {
        f"artifact:{record.key}": Status.HIT,
        "after": Status.RUN,
    }


def test_the_plan_shows_it_as_a_hit_and_loads_nothing_heavy(workspace, tmp_path: Path) -> None:
    """The command line, as people use it."""
    Names(workspace.store).promote(make(workspace), "base")
    file = tmp_path / "user.yaml"
    file.write_text(USER.format(text="artifact:base"))
    script = (
        "import sys\nfrom orchestrator.cli import main\n"
        f"sys.argv = ['orchestrator', '--store', {str(tmp_path / 'store')!r}, 'plan', {str(file)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'ray', 'torch', 'numpy', 'botocore'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "artifact:base" in line)
    assert row.startswith("HIT")
    assert "base@1" in row
