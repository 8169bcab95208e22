"""Terminals, pipes and readers that go away: colour, width, the live block, and stdout that stays data."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import Cli, has_started, spawn, wait_until

ESCAPE = "\x1b["


def on_terminal(*arguments: str, columns: int = 80, **variables: str) -> tuple[int, str]:
    """Exit code and everything written, with stdout and stderr on a terminal."""
    main_end, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments], stdout=terminal, stderr=terminal, stdin=terminal, env=environment
    )
    os.close(terminal)
    written = b""
    while True:
        ready, _, _ = select.select([main_end], [], [], 30)
        assert ready, "nothing came for 30 s"
        try:
            data = os.read(main_end, 65536)
        except OSError:
            break
        if not data:
            break
        written += data
    os.close(main_end)
    return process.wait(timeout=20), written.decode()


def test_a_terminal_gets_colours_and_lines_cut_to_its_width(cli: Cli) -> None:
    code, text = on_terminal("plan", "chain.yaml", columns=70)
    assert code == 0
    assert ESCAPE in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 70
    assert any(line.endswith("...") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "variables"), [((), {"NO_COLOR": "1"}), (("--no-color",), {}), ((), {"TERM": "dumb"})], ids=str
)
def test_colours_can_be_refused(cli: Cli, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    code, text = on_terminal("plan", "chain.yaml", *arguments, **variables)
    assert code == 0
    assert ESCAPE not in text
    assert "RUN     first" in text


def test_the_live_block_goes_away_and_leaves_one_line_for_each_node(cli: Cli) -> None:
    Path("short.yaml").write_text(
        "version: 1\nname: short\nnodes:\n"
        "  nap: {stage: probe.sleep, params: {seconds: 1.2}}\n"
        "  last: {stage: probe.echo, inputs: {inputs: [nap]}}\n"
    )
    code, text = on_terminal("submit", "short.yaml", "--executor", "inline", "--no-color")
    assert code == 0
    assert "1 running" in text
    assert re.search(r"RUN\s+nap\s+\S+.*\d+/24", text)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert plain.count("DONE    nap  ") == plain.count("DONE    last  ") == 1
    assert "running" not in plain.rpartition("done after")[2]


def test_a_pipe_gets_plain_lines_with_their_time(cli: Cli) -> None:
    answer = cli("submit", "chain.yaml", "--executor", "inline")
    lines = [line for line in answer.err.splitlines() if re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z  (RUN|DONE) +\S", line)]
    assert len(lines) == 8
    assert ESCAPE not in answer.err
    assert "\r" not in answer.err


def test_a_reader_that_goes_away_ends_quietly(cli: Cli, finished: str) -> None:
    command = f"{sys.executable} -m orchestrator stages show sparsify.lbc | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("sparsify.lbc")
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_run_does_not_die_with_its_audience(cli: Cli) -> None:
    command = f"{sys.executable} -m orchestrator submit chain.yaml --executor inline 2>&1 | head -n 1"
    subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert cli("status", "@last", "--json").document["run"]["state"] == "done"


def test_logs_are_followed_until_the_run_ends(cli: Cli) -> None:
    Path("short.yaml").write_text("version: 1\nname: short\nnodes: {nap: {stage: probe.sleep, params: {seconds: 1.5}}}\n")
    process = spawn("submit", "short.yaml", "--executor", "inline")
    wait_until(lambda: has_started("nap"))
    wait_until(lambda: bool(list(Path(".orchestrator/runs").glob("*/nodes/*/attempt-1.log"))))
    log = next(Path(".orchestrator/runs").glob("*/nodes/*/attempt-1.log"))
    log.write_text("printed meanwhile\n")
    answer = cli("logs", "@last", "nap", "-f")
    assert answer.out == "printed meanwhile\n"
    assert process.wait(timeout=20) == 0
    process.communicate()


def test_watching_follows_a_run_of_another_process(cli: Cli) -> None:
    Path("short.yaml").write_text("version: 1\nname: short\nnodes: {nap: {stage: probe.sleep, params: {seconds: 2}}}\n")
    process = spawn("submit", "short.yaml", "--executor", "inline")
    wait_until(lambda: has_started("nap"))
    answer = cli("status", "--watch")
    assert answer.code == 0
    assert "DONE    nap" in answer.err
    assert "Ctrl-C ends the watching; the run goes on" in answer.err
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_what_libraries_print_stays_out_of_the_output(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator import api

    real = api.submit

    def noisy(*arguments: object, **options: object) -> object:
        print("(raylet) a worker died")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "submit", noisy)
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--json")
    assert answer.lines[-1]["state"] == "done"
    assert "(raylet)" not in answer.err


def test_commands_to_type_next_name_the_store_of_this_call(cli: Cli) -> None:
    answer = cli("show", "zzzz", "--store", "my store")
    assert "next: orchestrator --store 'my store' artifacts ls" in answer.err
