"""Someone is told of a run at most once per event and rule; addresses stay out of the store; keys know nothing of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.errors import WorkflowError
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text

WORKFLOW = """\
version: 1
name: told
notify:
  - {on: [failure, success], webhook_variable: TEST_WEBHOOK}
nodes:
  one: {stage: probe.echo, params: {value: 1}}
"""

SEARCH = """\
version: 1
name: searching
notify:
  - {on: [constraint_met, success, failure], webhook_variable: TEST_WEBHOOK}
nodes:
  search:
    sweep:
      sampler: grid
      objectives: {score.value: maximize}
      constraints: [{metric: score.value, min: 2}]
      space: {score.value: {choice: [1, 2, 3]}}
    nodes:
      score: {stage: probe.echo}
"""


class Receiver:
    """A server on this machine that keeps what is posted to it."""

    def __init__(self) -> None:
        self.notices: list[dict[str, Any]] = []
        self.answer = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.answer)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/services/hidden-token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    monkeypatch.setenv("TEST_WEBHOOK", found.address)
    yield found
    found.server.shutdown()
    found.server.server_close()


def stored(workspace: api.Workspace) -> str:
    root = Path(workspace.store.url.removeprefix("file://"))
    return "".join(path.read_text(errors="replace") for path in root.rglob("*") if path.is_file())


def test_a_webhook_is_told_once_how_the_run_ended(run_text: Any, receiver: Receiver, workspace: api.Workspace) -> None:
    result = run_text(WORKFLOW)
    assert [(notice["event"], notice["run"]) for notice in receiver.notices] == [("success", result.run)]
    assert receiver.notices[0]["text"] == f"run {result.run} of told: done"
    assert result.not_told == []
    assert workspace.ledger.notices(result.run)["success-0"]["error"] == ""
    again = run_text(WORKFLOW)
    assert [notice["run"] for notice in receiver.notices] == [result.run, again.run], "each run tells of itself"


def test_the_address_stays_out_of_the_store_and_of_messages(
    run_text: Any, receiver: Receiver, workspace: api.Workspace
) -> None:
    receiver.answer = 500
    result = run_text(WORKFLOW)
    assert result.state is api.State.DONE, "the run has ended as it has"
    assert result.not_told == ["notify, webhook on success: the server answered 500"]
    assert "hidden-token" not in stored(workspace)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "variable TEST_WEBHOOK is not set"),
        ("file:///etc/passwd", "variable TEST_WEBHOOK holds no http address"),
        ("http://127.0.0.1:9/hidden", "the server cannot be reached (ConnectionRefusedError)"),
    ],
)
def test_what_does_not_arrive_is_said_and_fails_nothing(
    run_text: Any, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    monkeypatch.setenv("TEST_WEBHOOK", address)
    result = run_text(WORKFLOW)
    assert result.state is api.State.DONE
    assert result.not_told == [f"notify, webhook on success: {why}"]


def test_what_another_process_has_told_is_not_told_again(run_text: Any, receiver: Receiver, workspace: api.Workspace) -> None:
    class SomebodyElseIsFirst(api.Watcher):
        def started(self, status: api.RunStatus) -> None:
            assert workspace.ledger.claim_notice(status.id, "success-0")

    run_text(WORKFLOW, watcher=SomebodyElseIsFirst())
    assert receiver.notices == []


def test_a_command_gets_the_notice_on_stdin_and_in_variables(run_text: Any, tmp_path: Path) -> None:
    script = tmp_path / "tell.py"
    script.write_text(
        "import json, os, sys\n"
        f"open({str(tmp_path / 'told')!r}, 'a').write(json.load(sys.stdin)['event'] + os.environ['ORCHESTRATOR_RUN'] + '\\n')\n"
    )
    text = WORKFLOW.replace("webhook_variable: TEST_WEBHOOK", f"command: '{sys.executable} {script}'")
    result = run_text(text.replace("probe.echo, params: {value: 1}", "probe.fail"))
    assert result.state is api.State.FAILED
    assert (tmp_path / "told").read_text() == f"failure{result.run}\n"


def test_a_command_that_fails_or_hangs_is_said(run_text: Any) -> None:
    text = WORKFLOW.replace("webhook_variable: TEST_WEBHOOK", "command: 'false'")
    assert run_text(text).not_told == ["notify, command on success: false ended with exit code 1"]
    text = WORKFLOW.replace("webhook_variable: TEST_WEBHOOK", "command: sleep 60, timeout: 100ms")
    assert run_text(text).not_told == ["notify, command on success: it did not end within 0.1 s"]
    text = WORKFLOW.replace("webhook_variable: TEST_WEBHOOK", "command: no-such-program-here")
    assert "no-such-program-here" in run_text(text).not_told[0]


def test_the_first_trial_that_meets_the_constraints_is_told_and_no_further_one(run_text: Any, receiver: Receiver) -> None:
    run_text(SEARCH)
    assert [notice["event"] for notice in receiver.notices] == ["constraint_met", "success"]
    assert receiver.notices[0]["metrics"]["score.value"] >= 2


def test_constraints_that_nothing_meets_are_a_failure_to_tell(run_text: Any, receiver: Receiver) -> None:
    run_text(SEARCH.replace("min: 2", "min: 9"))
    assert [notice["event"] for notice in receiver.notices] == ["failure"]
    assert "None of 3 trials meets the constraints" in receiver.notices[0]["text"]


def test_no_key_depends_on_who_is_told(plan_text: Any) -> None:
    told = plan_text(WORKFLOW)
    silent = plan_text("version: 1\nname: told\nnodes:\n  one: {stage: probe.echo, params: {value: 1}}\n")
    assert told.nodes["one"].key == silent.nodes["one"].key


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{on: [success]}", "one of command and webhook_variable"),
        ("{on: [success], command: a, webhook_variable: B}", "one of command and webhook_variable"),
        ("{on: [end], command: a}", "choose one of"),
        ("{on: [], command: a}", "at least one event"),
        ("{on: [success], webhook: http://x/y}", "webhook_variable"),
        ("{on: [success], webhook_variable: 'http://x/y'}", "webhook_variable"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused_with_their_line(rule: str, words: str) -> None:
    text = WORKFLOW.replace("{on: [failure, success], webhook_variable: TEST_WEBHOOK}", rule)
    with pytest.raises(WorkflowError) as caught:
        check_workflow(load_text(text, file="w.yaml"))
    assert {problem.line for problem in caught.value.problems} == {4}
    told = [f"{problem.what} {problem.found} {problem.expected} {problem.suggestion}" for problem in caught.value.problems]
    assert words in told[0]
