"""Each exit code of the table, one by one; scripts and CI branch on them."""

from __future__ import annotations

import signal
import zipfile
from pathlib import Path

import pytest
from cli_calls import Cli, has_started, spawn, wait_until

from orchestrator import api


def test_a_run_that_ends_well_exits_with_0(cli: Cli) -> None:
    answer = cli("submit", "chain.yaml", "--executor", "inline")
    assert answer.code == 0
    assert "done after" in answer.err


def test_nothing_to_do_is_a_success_that_says_so(cli: Cli, finished: str) -> None:
    answer = cli("submit", "chain.yaml")
    assert answer.code == 0
    assert answer.err.startswith("nothing to do: all 4 nodes are finished (run ")
    assert len(answer.err.splitlines()) == 1


def test_a_bug_of_ours_exits_with_1_and_keeps_the_trace_in_a_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(api, "plan", broken)
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
    answer = cli("plan", "chain.yaml")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "our fault" in answer.err
    place = Path(answer.err.partition("trace: ")[2].split()[0])
    assert "RuntimeError: a bug" in place.read_text()
    assert "Traceback" in cli("-v", "plan", "chain.yaml").err
    assert answer.err.splitlines()[-1].strip().startswith("next: orchestrator doctor --bundle report.zip")
    assert cli("doctor", "--bundle", "report.zip").code in (0, 7)
    with zipfile.ZipFile("report.zip") as bundle:
        assert "RuntimeError: a bug" in bundle.read(f"traces/{place.name}").decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["sumbit", "chain.yaml"],
        ["plan"],
        ["plan", "chain.yaml", "--nonsense"],
        ["plan", "absent.yaml"],
        ["plan", "chain.yaml", "--set", "first.valeu=3"],
        ["plan", "chain.yaml", "--why", "frist"],
        ["plan", "chain.yaml", "--rerun", "frist"],
        ["submit", "chain.yaml", "--executor", "cloud"],
        ["submit", "chain.yaml", "--tag", "no value"],
        ["status", "zzzz"],
        ["logs", "@last"],
        ["show", "zzzz"],
        ["cancel", "@last", "--grace", "soon"],
        ["stages", "show", "probe.ecko"],
        ["artifacts", "get", "zzzz"],
        ["plan", "chain.yaml", "--store", "gs://bucket"],
    ],
)
def test_what_cannot_be_meant_exits_with_2_and_says_what_to_type_next(cli: Cli, arguments: list[str]) -> None:
    answer = cli(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert "next: " in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


def test_a_failed_node_exits_with_3(cli: Cli) -> None:
    assert cli("submit", "failing.yaml", "--executor", "inline").code == 3


def test_damaged_content_exits_with_5(cli: Cli, finished: str) -> None:
    key = cli("artifacts", "ls", "--json").document["artifacts"][0]["key"]
    for blob in Path(".orchestrator/blobs").glob("*/*"):
        blob.chmod(0o644)
        blob.write_bytes(b"x" * blob.stat().st_size)
    answer = cli("artifacts", "get", key, "out")
    assert answer.code == 5
    assert "value.json is damaged" in answer.err
    assert not Path("out").exists(), "all files or none"


def test_a_store_that_cannot_be_written_exits_with_7(cli: Cli) -> None:
    Path("file").write_text("not a folder")
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--store", "file")
    assert answer.code == 7
    assert "--store" in answer.err.splitlines()[-1]


def test_plan_tells_work_by_8_only_when_asked(cli: Cli) -> None:
    assert cli("plan", "chain.yaml").code == 0
    assert cli("plan", "chain.yaml", "--exit-code").code == 8
    cli("submit", "chain.yaml", "--executor", "inline")
    assert cli("plan", "chain.yaml", "--exit-code").code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on(cli: Cli, number: int, code: int) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "orchestrator submit slow.yaml" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert cli("status", "@last", "--json").document["run"]["state"] == "cancelled"


def test_cancel_stops_a_run_of_another_process(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    assert cli("status", "--json").document["runs"][0]["workflow"] == "slow"
    assert cli("cancel", "@last").code == 0
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "is not running: it is cancelled" in cli("cancel", "@last").err
    assert "no run is live" in cli("status").err


def test_the_console_script_and_the_module_are_the_same_command() -> None:
    process = spawn("version")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("orchestrator")
