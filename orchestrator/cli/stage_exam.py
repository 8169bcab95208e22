"""The exam behind `stages check`: what holds for every stage, tried out with the small settings of its own `example`.

Each run is a process of its own (`python -m orchestrator.cli.stage_exam`), in an empty folder that is its home, too: so it is
seen what a stage writes elsewhere, and it can be killed in the middle. Inputs come from the first stage that makes such an
artifact.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.cli.doctor_checks import FAIL, OK, WARN, Check
from orchestrator.engine.executors.inline import InlineExecutor
from orchestrator.engine.work import Work
from orchestrator.report.stage_text import stage_parameters
from orchestrator.report.text import format_seconds, plural
from orchestrator.store.base import Store
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.spec import Resources
from stages import catalog
from stages.contract import Port, StageSpec

FAILS_ON_PURPOSE = {"probe.fail"}
NEEDS_GPU = {"export.semi_structured"}
"""Its own tests examine it: the exam's processes have no GPU and its models no masks."""
NEEDS_FILES = {"data.encode"}
"""Its own tests examine it: nothing here writes a pipeline of diffusers."""

SUBJECT = "subject"
KILLED = -signal.SIGKILL
TIME_LIMIT_S = 900

Found = Mapping[str, Any]


# The workflow of the exam


@cache
def producer(kind: str, name: str = "") -> StageSpec:
    """The first stage that makes an artifact of this kind, one without inputs first; ValueError where none does.

    `name`: of the stage, where an example wants a certain one.
    """
    if name:
        return catalog.all_stages()[name]
    makers = [spec for spec in catalog.all_stages().values() if spec.output == kind and spec.name not in FAILS_ON_PURPOSE]
    if not makers:
        raise ValueError(f"no stage makes an artifact of kind {kind}")
    return min(makers, key=lambda spec: len(required(spec)))


def required(spec: StageSpec) -> dict[str, Port]:
    """The ports that have to be connected."""
    return {name: port for name, port in spec.inputs.items() if not port.optional}


def nodes_for(spec: StageSpec, name: str, changes: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The stage as a node, with nodes before it that make its inputs; `changes` are put over its example."""
    nodes: dict[str, dict[str, Any]] = {}
    inputs = {}
    for port_name, port in required(spec).items():
        maker = producer(port.kind, spec.example_stages.get(port_name, ""))
        wanted = spec.example_inputs.get(port_name, {})
        made = f"made_{port_name}" if wanted or port_name in spec.example_stages else f"made_{port.kind}"
        nodes.update(nodes_for(maker, made, wanted))
        inputs[port_name] = made
    nodes[name] = {"stage": spec.name, "params": {**spec.example, **(changes or {})}, "inputs": inputs}
    return nodes


def run_in(folder: Path, name: str, *, executor: Any = "inline") -> tuple[api.RunResult, api.Plan, api.Workspace]:
    """Run the stage's example, with what makes its inputs, over the store in `folder`."""
    content = {"version": 1, "name": "exam", "nodes": nodes_for(catalog.all_stages()[name], SUBJECT)}
    workspace = api.open_workspace(str(folder))
    plan = api.plan_checked(check_workflow(load_text(json.dumps(content), file="exam.yaml")), workspace=workspace)
    return api.submit(plan, workspace=workspace, executor=executor), plan, workspace


# The exam


def examine(spec: StageSpec, *, source: str = "") -> Iterator[Check]:
    """All that a stage has to hold, each as soon as it is known. `source`: the module with its STAGES, if not installed."""
    yield from _described(spec)
    yield _imports(spec)
    with tempfile.TemporaryDirectory(prefix="orchestrator-exam-") as folder:
        place = Path(folder)
        first = _run(spec, source, place / "first")
        if "digest" not in first:
            yield Check("runs", FAIL, _last_line(first), "run its function by itself: stages.contract.local_context")
            return
        took = format_seconds(first["seconds"])
        yield Check("runs", OK, f"on its example in {took}: {plural(first['files'], 'file')}, kind {first['kind']}")
        missing = sorted(set(spec.metrics) - set(first["metrics"]))
        reported = plural(len(first["metrics"]), "metric")
        yield (
            Check("metrics", FAIL, f"declared and not reported: {', '.join(missing)}", "report them, or declare others")
            if missing
            else Check("metrics", OK, f"{reported} reported, all that it declares among them")
        )
        yield (
            Check("stays inside", FAIL, f"it wrote {', '.join(first['elsewhere'][:5])}", "write to context.output or scratch")
            if first["elsewhere"]
            else Check("stays inside", OK, "wrote nothing outside of its folders")
        )
        second = _run(spec, source, place / "second")
        yield _same("same again", first, second, "same settings and seed gave the same content")
        if not first["looks"]:
            fix = "call context.check_cancelled() at each step"
            yield Check("stops", WARN, "it never looks whether it is to stop", fix)
            return
        killed = _run(spec, source, place / "third", kill_at=max(1, first["looks"] // 2))
        if killed["code"] != KILLED:
            yield Check("goes on", FAIL, f"it could not be killed in the middle: {_last_line(killed)}", "see `runs`")
            return
        after = _run(spec, source, place / "third")
        yield _same("goes on", first, after, f"killed at look {max(1, first['looks'] // 2)} of {first['looks']}, and run again")


def _described(spec: StageSpec) -> Iterator[Check]:
    """What the description itself has to hold."""
    problems = [f"no {name}" for name in ("summary", "source", "output", "example") if not getattr(spec, name)]
    undescribed = [parameter.name for parameter in stage_parameters(spec) if not parameter.description]
    if undescribed:
        problems.append(f"settings without a description: {', '.join(undescribed)}")
    fix = "say them in its StageSpec and in Field(description=...), with units"
    yield Check("described", FAIL, "; ".join(problems), fix) if problems else Check("described", OK, spec.summary)
    try:
        settings = spec.settings(**spec.example)
        again = spec.settings(**settings.model_dump(mode="json", exclude_unset=True))
    except (ValueError, TypeError) as error:
        yield Check("settings", FAIL, f"its example is refused: {' '.join(str(error).split())}", "mend the example")
        return
    if again != settings:
        yield Check("settings", FAIL, "written and read they are others", "use fields that JSON can hold")
    else:
        yield Check("settings", OK, f"{plural(len(spec.settings.model_fields), 'setting')}, the same when written and read")


def _imports(spec: StageSpec) -> Check:
    """The settings load no torch, so that plans stay fast; the method knows neither engine nor Ray, so that it works alone."""
    code = (
        "import importlib, sys\n"
        f"importlib.import_module({spec.settings.__module__!r})\n"
        "print('settings', *(name for name in ('torch', 'numpy', 'ray', 'orchestrator') if name in sys.modules))\n"
        f"importlib.import_module({spec.implementation.partition(':')[0]!r})\n"
        "print('method', *(name for name in ('ray', 'orchestrator') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment())  # noqa: S603
    if done.returncode:
        return Check("imports", FAIL, _last_line({"err": done.stderr}), f"python -c 'import {spec.settings.__module__}'")
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith(("settings", "method"))}
    if found["settings"]:
        return Check(
            "imports", FAIL, f"its settings load {', '.join(found['settings'])}", "import those in the method's module"
        )
    if found["method"]:
        return Check("imports", FAIL, f"its method loads {', '.join(found['method'])}", "leave them to the engine")
    return Check("imports", OK, "settings load no torch, the method no engine")


def _same(name: str, first: Found, other: Found, how: str) -> Check:
    if "digest" not in other:
        return Check(name, FAIL, f"the other run failed: {_last_line(other)}", "see `runs`")
    if other["digest"] != first["digest"]:
        fix = "draw all randomness from context.seed, and save all state with context.checkpoints"
        return Check(name, FAIL, f"the content differs: {first['digest'][:12]} and {other['digest'][:12]}", fix)
    return Check(name, OK, how if name == "same again" else f"{how}: the same content")


def _run(spec: StageSpec, source: str, place: Path, *, kill_at: int = 0) -> dict[str, Any]:
    """One run in a process of its own: what it found, its exit `code`, `err`, and files that lie `elsewhere`."""
    home = place / "home"
    home.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "orchestrator.cli.stage_exam", source, spec.name, str(place / "store"), str(kill_at)]
    environment = {**_environment(), "HOME": str(home)}
    done = subprocess.run(  # noqa: S603 - this very module
        words, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith('{"exam"')]
    found = json.loads(answers[-1])["exam"] if answers else {}
    elsewhere = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return {**found, "code": done.returncode, "err": found.get("error") or done.stderr, "elsewhere": elsewhere}


def _environment() -> dict[str, str]:
    """As here; what is imported from the present folder is found from elsewhere, too."""
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def _last_line(found: Found) -> str:
    lines = [line for line in str(found.get("err", "")).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it ended without a word"


# One run of it


class _Killed(InlineExecutor):
    """Counts how often the subject looks whether it is to stop, and kills this process at one of these looks."""

    def __init__(self, store: Store, *, run: str, kill_at: int) -> None:
        super().__init__(store, run=run, is_stop_asked=self._look_of_stage)
        self.looks = 0
        self._kill_at = kill_at
        self._label = ""

    def submit(self, work: Work, resources: Resources) -> None:
        self._label = work.label
        super().submit(work, resources)

    def _look_of_stage(self) -> bool:
        self.looks += self._label == SUBJECT
        if self._kill_at and self.looks == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def load_source(source: str) -> Sequence[StageSpec]:
    """The STAGES of "package.module", or of "package.module:NAME", offered to this process; ImportError, ValueError."""
    module, _, name = source.partition(":")
    specs = getattr(importlib.import_module(module), name or "STAGES", None)
    if not isinstance(specs, Sequence) or not specs or not all(isinstance(spec, StageSpec) for spec in specs):
        raise ValueError(f"{module} has no {name or 'STAGES'} with descriptions of stages (StageSpec)")
    catalog.offer_stages(specs)
    return specs


def _main(source: str, name: str, folder: str, kill_at: str) -> None:
    if source:
        load_source(source)
    made: list[_Killed] = []

    def executor(run: str) -> _Killed:
        made.append(_Killed(api.open_workspace(folder).store, run=run, kill_at=int(kill_at)))
        return made[-1]

    result, plan, workspace = run_in(Path(folder), name, executor=executor)
    failed = next((node for node in result.status.nodes.values() if node.state == "failed"), None)
    if failed is not None:
        print(json.dumps({"exam": {"error": f"{failed.label}: {failed.error}"}}))  # noqa: T201
        return
    record = workspace.artifacts.find(name, plan.nodes[SUBJECT].key)
    assert record is not None
    found = {
        "digest": record.content_digest, "kind": record.kind, "files": len(record.files), "seconds": record.seconds,
        "metrics": [*record.metrics, *record.measurements], "looks": made[-1].looks if made else 0,
    }  # fmt: skip
    print(json.dumps({"exam": found}))  # noqa: T201 - what the examiner reads


if __name__ == "__main__":
    _main(*sys.argv[1:])
