"""`stages check` and `stages new`: a method of one's own, from the first line to the exam that every shipped stage sits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import Answer, Cli

from orchestrator.cli.stage_new import stage_files

SETTINGS = """\
from pydantic import Field
from stages.contract import StageSettings, StageSpec

class Settings(StageSettings):
    value: int = Field(0, description="what to write down")

def spec(name, **changes):
    told = {"summary": "Write a number", "source": "none", "example": {"value": 3}, "metrics": ("value",)}
    return StageSpec(name=f"own.{name}", version=1, settings=Settings, implementation=f"own_method:{name}", output="own",
                     **{**told, **changes})

STAGES = (spec("good"), spec("bad", source="", metrics=("value", "size")))
UNFIT = (spec("deaf"), spec("raising"))
"""

METHOD = """\
import json, os, uuid
from pathlib import Path
from stages.contract import StageResult

def good(context):
    latest = context.checkpoints.latest()
    for step in range(latest[0] if latest else 0, 6):
        context.check_cancelled()
        context.checkpoints.save(step + 1, lambda folder: (folder / "state").write_text(""))
    (context.output / "value.json").write_text(json.dumps(context.settings.value))
    return StageResult(metrics={"value": context.settings.value})

def bad(context):
    Path.home().joinpath("left-behind").write_text("x")
    for _ in range(4):
        context.check_cancelled()
    (context.output / "value.json").write_text(uuid.uuid4().hex)
    return StageResult(metrics={"value": context.settings.value})

def deaf(context):
    (context.output / "value.json").write_text("1")
    return StageResult(metrics={"value": 1})

def raising(context):
    raise RuntimeError("the weather")
"""


def in_process(*arguments: str) -> Answer:
    """As a process: modules of this folder are imported, which must not stay in the tests' own."""
    done = subprocess.run([sys.executable, "-m", "orchestrator", *arguments], capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def own(cli: Cli) -> None:
    Path("own_settings.py").write_text(SETTINGS)
    Path("own_method.py").write_text(METHOD)


@pytest.mark.usefixtures("own")
def test_a_stage_that_holds_up_passes_and_one_that_does_not_is_told_why() -> None:
    answer = in_process("stages", "check", "own_settings", "--json")
    assert answer.code == 5
    good, bad = answer.document["stages"]
    assert not answer.document["passed"]
    assert {check["name"]: check["word"] for check in good["checks"]} == dict.fromkeys(
        ("described", "settings", "imports", "runs", "metrics", "stays inside", "same again", "goes on"), "OK"
    )
    found = {check["name"]: (check["word"], check["found"]) for check in bad["checks"]}
    assert found["described"] == ("FAIL", "no source")
    assert found["metrics"] == ("FAIL", "declared and not reported: size")
    assert found["stays inside"] == ("FAIL", "it wrote left-behind")
    assert found["same again"][0] == "FAIL"
    assert "the content differs" in found["same again"][1]
    assert all(check["fix"] for check in bad["checks"] if check["word"] == "FAIL")


@pytest.mark.usefixtures("own")
def test_a_stage_that_raises_or_never_looks_is_told_so() -> None:
    answer = in_process("stages", "check", "own_settings:UNFIT")
    assert answer.code == 5
    assert "WARN  stops         it never looks whether it is to stop" in answer.out
    assert "FAIL  runs          subject: the weather" in answer.out
    assert answer.err == "1 of 2 stages failed: own.raising\n"
    assert "Traceback" not in answer.out


def test_a_stage_of_the_catalogue_sits_the_same_exam(cli: Cli) -> None:
    assert cli("stages", "check", "probe.echo").code == 0
    assert "probe.fail is left out: it fails on purpose" in cli("stages", "check", "probe.fail").err


@pytest.mark.parametrize("what", ["no_such_module", "json", "own_settings:ABSENT"])
@pytest.mark.usefixtures("own")
def test_what_has_no_stages_is_refused(what: str) -> None:
    answer = in_process("stages", "check", what)
    assert answer.code == 2
    assert "is no stage, no kind of stage and no module with stages" in answer.err


def test_a_new_stage_is_a_package_that_says_what_to_do_next(cli: Cli) -> None:
    answer = cli("stages", "new", "rounding.to_grid")
    assert answer.code == 0
    assert "   orchestrator stages check rounding_stages.settings" in answer.err
    assert {str(file.relative_to("rounding")) for file in Path("rounding").rglob("*") if file.is_file()} == set(
        stage_files("rounding", "to_grid")
    )
    text = "".join(file.read_text() for file in Path("rounding").rglob("*") if file.is_file())
    assert not [word for word in ("{kind}", "{method}", "{package}", "{Settings}") if word in text]
    assert cli("stages", "new", "rounding.to_grid").code == 2, "nothing is overwritten"
    assert "the kind" in cli("stages", "new", "sparsify.mine").err
    assert "no name for a stage" in cli("stages", "new", "Rounding").err


@pytest.mark.slow
def test_a_new_stage_passes_the_exam_and_its_own_tests(cli: Cli) -> None:
    """Five processes that load torch."""
    cli("stages", "new", "rounding.to_grid")
    os.chdir("rounding")
    answer = in_process("stages", "check", "rounding_stages.settings")
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.count("\nOK ") == 8
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
