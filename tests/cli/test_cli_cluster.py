"""`submit --address` against a cluster that runs nothing: what is checked before, sent, and recorded. No Ray."""

from __future__ import annotations

import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli
from cluster_stub import TOKEN, ClusterStub

from orchestrator import api
from orchestrator.cli import job
from orchestrator.engine.executors.inline import InlineExecutor
from orchestrator.report.run_status import MAX_QUEUED_S

TWO_NAPS = """version: 1
name: two
nodes:
  a: {stage: probe.sleep, params: {seconds: 0.3, value: 1}}
  b: {stage: probe.sleep, params: {seconds: 0.3, value: 2}, inputs: {inputs: a}}
"""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ClusterStub]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    started = ClusterStub()
    started.hosts = [socket.gethostname()]
    yield started
    started.close()


def runs() -> list[api.RunStatus]:
    workspace = api.open_workspace()
    return [api.status(request.id, workspace=workspace) for request in workspace.ledger.runs()]


def test_a_job_gets_the_runs_id_our_code_and_nothing_secret(cli: Cli, stub: ClusterStub, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must-not-travel")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    answer = cli("submit", "chain.yaml", "--address", stub.url, "--detach", "--pass-env", "AWS_ENDPOINT_URL")
    assert answer.code == 0, answer.err
    (run,) = runs()
    assert run.state == "queued"
    ((job_id, job),) = stub.jobs.items()
    assert job_id == run.id
    words = job["entrypoint"].split()
    assert words[:3] == ["/opt/bin/python", "-m", "orchestrator.cli.job"], "the interpreter that runs the head's Ray"
    assert words[words.index("--ray") + 1] == "head:6379", "not what Ray finds on a head with several Rays"
    assert job["runtime_env"]["env_vars"] == {"AWS_ENDPOINT_URL": "http://store:9000"}
    ((name, data),) = stub.packages.items()
    assert job["runtime_env"]["working_dir"] == f"gcs://{name}"
    files = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert {"orchestrator/cli/job.py", "stages/catalog.py"} <= set(files)
    assert all(file.startswith(("orchestrator/", "stages/")) and "__pycache__" not in file for file in files)
    assert "must-not-travel" not in json.dumps(stub.jobs)
    assert TOKEN not in json.dumps(stub.jobs)
    assert f"status {run.id} --watch" in answer.err


def test_the_same_submit_again_attaches_and_a_finished_one_asks_nothing(cli: Cli, stub: ClusterStub) -> None:
    for _ in range(2):
        assert cli("submit", "chain.yaml", "--address", stub.url, "--detach").code == 0
    assert len(stub.jobs) == 1
    assert len(stub.packages) == 1
    assert cli("submit", "chain.yaml", "--executor", "inline").code == 0
    asked = len(stub.headers)
    answer = cli("submit", "chain.yaml", "--address", stub.url)
    assert (answer.code, len(stub.headers)) == (0, asked)


def test_what_comes_too_late_for_a_run_that_goes_on_is_said_and_a_key_stands_for_it(cli: Cli, stub: ClusterStub) -> None:
    """Else a tag is looked for in vain, a budget is thought to hold, and the same key begins a second run."""
    begun = ("submit", "chain.yaml", "--address", stub.url, "--detach", "--tag", "team=a", "--max-gpus", "2")
    assert cli(*begun).code == 0
    assert "note:" not in cli(*begun).err, "nothing is said of what the run was begun with"
    answer = cli(*begun[:-4], "--tag", "team=b", "--budget", "2cpuh", "--keep-going", "--idempotency-key", "nightly", "-q")
    (run,) = runs()
    assert answer.err.splitlines()[0] == (
        "note: without --tag team=b, a budget of 2 CPU-h, --keep-going: a run keeps what it was begun with"
    )
    assert f"orchestrator cancel {run.id}, then the same submit with another --idempotency-key: " in answer.err
    stub.job_status = "FAILED"
    other = cli("submit", "slow.yaml", "--address", stub.url, "--detach", "--idempotency-key", "nightly")
    assert (other.code, f"used by run {run.id} for something else" in other.err) == (2, True)
    assert len(stub.jobs) == 1


def test_a_head_that_has_just_begun_is_waited_for(cli: Cli, stub: ClusterStub) -> None:
    """It answers before it knows itself: its interpreter, and whether other machines are there."""
    stub.beginnings = [[], [{"raylet": {"isHeadNode": True, "state": "ALIVE"}}]]
    assert cli("submit", "chain.yaml", "--address", stub.url, "--detach").code == 0
    (job,) = stub.jobs.values()
    assert job["entrypoint"].startswith("/opt/bin/python ")


def test_what_another_run_made_before_the_job_began_is_a_hit(cli: Cli, stub: ClusterStub) -> None:
    """Else the run is done, and its status tells of nodes that were never started."""
    assert cli("submit", "chain.yaml", "--address", stub.url, "--detach").code == 0
    assert cli("submit", "chain.yaml", "--executor", "inline").code == 0
    (job,) = stub.jobs
    result = api.drive_recorded(job, workspace=api.open_workspace(), place=api.RayPlace(address="no-head:1"))
    assert result.state.value == "done"
    assert {node.state for node in api.status(job, workspace=api.open_workspace()).nodes.values()} == {"hit"}


def test_a_lost_answer_to_a_submission_begins_one_job(cli: Cli, stub: ClusterStub) -> None:
    """The request arrived and its answer did not: the job is there under the run's id."""
    stub.loses_answers = True
    assert cli("submit", "chain.yaml", "--address", stub.url, "--detach").code == 0
    assert [run.state for run in runs()] == ["queued"]


def test_a_budget_travels_with_a_job_and_its_driver_keeps_it(cli: Cli, stub: ClusterStub, monkeypatch) -> None:
    """From the flag to the exit codes of the job and of who waits for it; in place of Ray's processes the driver has one."""
    Path("two.yaml").write_text(TWO_NAPS)
    assert cli("submit", "two.yaml", "--address", stub.url, "--detach", "--budget", "0.00005cpuh").code == 0
    ((run, sent),) = stub.jobs.items()
    monkeypatch.setattr(
        "orchestrator.engine.executors.ray.RayExecutor",
        lambda store, **given: InlineExecutor(store, run=given["run"], is_stop_asked=lambda: False),
    )
    monkeypatch.setattr("sys.argv", sent["entrypoint"].split()[2:])
    assert job.main() == 6
    assert cli("wait", run).code == 6
    status = api.status(run, workspace=api.open_workspace())
    assert (status.nodes["a"].state, status.nodes["b"].state) == ("done", "planned")
    assert status.over_budget.endswith("of 5e-05 CPU-h")
    assert "budget" in cli("status", run).out


def test_an_idempotency_key_holds_for_jobs_too(cli: Cli, stub: ClusterStub) -> None:
    assert cli("submit", "chain.yaml", "--address", stub.url, "--detach", "--idempotency-key", "nightly").code == 0
    stub.job_status = "FAILED"
    answer = cli("submit", "slow.yaml", "--address", stub.url, "--detach", "--idempotency-key", "nightly")
    assert answer.code == 2, answer.err
    assert len(stub.jobs) == 1


def test_a_submit_that_finds_its_key_taken_waits_for_nothing_where_it_was_asked_to_detach(cli: Cli, stub: ClusterStub) -> None:
    """Two at the same moment: the second would sit in its terminal, or in a scheduler's slot, until the run has ended."""
    asked = ("submit", "chain.yaml", "--detach", "--idempotency-key", "nightly")
    assert cli(*asked, "--address", stub.url).code == 0
    (run,) = runs()
    answer = cli(*asked, "--address", stub.url.replace("127.0.0.1", "localhost"), "--json")
    assert answer.code == 0
    assert answer.lines[-1] == {"schema": 1, "type": "submitted", "run": run.id, "address": stub.url}
    assert len(stub.jobs) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ray_version": "2.40.0"}, "runs Ray 2.40.0"),
        ({"python": "3.9"}, "runs Python 3.9; expected one of 3.11, 3.12, 3.13"),
        ({"hosts": ["head", "worker-1", "worker-2"]}, "--store-is-shared"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_recorded(cli: Cli, stub: ClusterStub, wrong: dict, said: str) -> None:
    vars(stub).update(wrong)
    answer = cli("submit", "chain.yaml", "--address", stub.url)
    assert answer.code == 7
    assert said in answer.err
    assert (runs(), stub.jobs) == ([], {})


def test_a_shared_folder_is_taken_at_its_word(cli: Cli, stub: ClusterStub) -> None:
    stub.hosts = ["head", "worker-1"]
    answer = cli("submit", "chain.yaml", "--address", stub.url, "--detach", "--store-is-shared")
    assert answer.code == 0, answer.err
    assert next(iter(stub.jobs.values()))["entrypoint"].endswith("--store-is-shared")


def test_the_token_is_looked_for_where_ray_looks_and_never_said(cli: Cli, stub: ClusterStub, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    answer = cli("submit", "chain.yaml", "--address", stub.url, "--detach")
    assert answer.code == 7
    assert "RAY_AUTH_TOKEN_PATH" in answer.err
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN + "\n")
    answer = cli("submit", "chain.yaml", "--address", stub.url, "--detach")
    assert answer.code == 0, answer.err
    (tmp_path / "elsewhere").write_text("another")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    answer = cli("submit", "slow.yaml", "--address", stub.url, "--detach")
    assert (answer.code, "does not accept the token" in answer.err) == (7, True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    answer = cli("submit", "slow.yaml", "--address", stub.url, "--detach")
    assert (answer.code, "cannot be read" in answer.err) == (7, True)
    store = b"".join(path.read_bytes() for path in (tmp_path / ".orchestrator").rglob("*") if path.is_file())
    assert TOKEN.encode() not in store


def test_a_job_that_ends_without_a_word_is_told_with_its_last_lines(cli: Cli, stub: ClusterStub) -> None:
    stub.job_status = "FAILED"
    answer = cli("submit", "chain.yaml", "--address", stub.url)
    assert answer.code == 7
    assert "last line" in answer.err
    assert "its job is FAILED (stubbed)" in answer.err
    assert [run.state for run in runs()] == ["interrupted"]


def test_a_run_that_another_process_is_still_sending_is_not_taken_for_lost(cli: Cli, stub: ClusterStub, monkeypatch) -> None:
    """Two submits at the same moment: the second follows a run whose job the cluster has not got yet."""
    monkeypatch.setattr("orchestrator.cli.clustering.LOOK_AT_JOB_EVERY_S", 0.1)
    workspace = api.open_workspace()
    run = api.enqueue(api.plan("chain.yaml", workspace=workspace), workspace=workspace, address=stub.url)
    stub.job_status = "FAILED"
    arrival = threading.Timer(1.5, lambda: stub.jobs.update({run: {}}))
    arrival.start()
    answer = cli("submit", "chain.yaml", "--address", stub.url)
    arrival.join()
    assert "is doing this already" in answer.err
    assert "its job is FAILED (stubbed)" in answer.err


def test_a_run_whose_job_never_begins_is_given_up(cli: Cli, stub: ClusterStub, monkeypatch) -> None:
    """Else `wait` would wait for a cluster that is gone."""
    assert cli("submit", "chain.yaml", "--address", stub.url, "--detach").code == 0
    assert "queued" in cli("status", "@last").out
    monkeypatch.setattr("orchestrator.report.run_status.MAX_QUEUED_S", 0.0)
    assert MAX_QUEUED_S > 60
    assert [run.state for run in runs()] == ["interrupted"]
    assert f"--address {stub.url}" in cli("status", "@last").out, "the command that goes on names the cluster"


def test_no_answer_names_the_address_and_what_to_look_at(cli: Cli, stub: ClusterStub) -> None:
    stub.close()
    answer = cli("submit", "chain.yaml", "--address", stub.url)
    assert answer.code == 7
    assert f"no answer from the cluster at {stub.url}" in answer.err


def test_a_port_that_speaks_something_else_is_told_as_no_answer(cli: Cli) -> None:
    """That of Ray's control store, say, which is next to the one of its jobs in what Ray prints."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"@@ no HTTP @@\r\n\r\n"))
        thread.start()
        answer = cli("submit", "chain.yaml", "--address", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join(10)
    assert answer.code == 7
    assert "no answer from the cluster" in answer.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--address", "ray://head:10001"), "http://HEAD:8265"),
        (("--address", "http://me:secret@head:8265"), "must hold no user"),
        (("--address", "head"), "expected http://HEAD:8265 for a job, auto or HOST:6379"),
        (("--detach",), "--detach goes with a job"),
        (("--address", "auto", "--detach"), "--detach goes with a job"),
        (("--address", "http://head:8265", "--executor", "inline"), "--executor inline runs in this process"),
        (("--address", "http://head:8265", "--dashboard"), "a cluster has its own"),
        (("--address", "http://head:8265", "--pass-env", "NOT_THERE"), "there is no such variable here"),
        (("--address", "http://head:8265", "--pass-env", "RAY_AUTH_TOKEN"), "must not stand in a job"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    answer = cli("submit", "chain.yaml", *flags)
    assert answer.code == 2, answer.err
    assert said in answer.err
    assert "secret" not in answer.err


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_PROFILES", str(tmp_path / "profiles.toml"))
    return tmp_path / "profiles.toml"


def test_a_profile_names_store_and_cluster_and_changes_no_key(cli: Cli, stub: ClusterStub, profiles: Path) -> None:
    profiles.write_text(f'[lab]\naddress = "{stub.url}"\nstore = "lab-store"\nstore_is_shared = true\npython = "/lab/python"\n')
    plain = {node["key"] for node in json.loads(cli("plan", "chain.yaml", "--json").out)["nodes"]}
    lab = {node["key"] for node in json.loads(cli("plan", "chain.yaml", "--json", "--profile", "lab").out)["nodes"]}
    assert plain == lab
    answer = cli("--profile", "lab", "submit", "chain.yaml", "--detach")
    assert answer.code == 0, answer.err
    assert "orchestrator --profile lab status" in answer.err
    ((_, job),) = stub.jobs.items()
    assert job["entrypoint"].startswith("/lab/python ")
    assert Path("lab-store").is_dir()
    assert "queued" in cli("status", "@last", "--profile", "lab").out
    assert "profile lab" in cli("config", "show", "--profile", "lab").out
    assert cli("submit", "chain.yaml", "--profile", "lab", "--executor", "inline").code == 0, "a flag stands above the profile"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("[other]\n", "which has other"),
        ("[lab]\naddres = 'x'\n", "profile lab: addres"),
        ("[lab]\nnum_cpus = 0\n", "profile lab: num_cpus"),
        ("lab = 3\n", "profile lab"),
        ("[lab\n", "cannot be read"),
    ],
)
def test_a_wrong_profile_is_told_with_what_the_file_may_have(cli: Cli, profiles: Path, content: str | None, said: str) -> None:
    if content is not None:
        profiles.write_text(content)
    answer = cli("submit", "chain.yaml", "--profile", "lab")
    assert answer.code == 2
    assert said in answer.err
