"""`reproduce`: make an artifact again beside the store, and compare."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from orchestrator.cli.completing import complete_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.placing import EXECUTOR, ExecutorChoice
from orchestrator.cli.shell import Shell

EXIT_DIFFERENT = 5


@command("reproduce", example="orchestrator reproduce @last/evaluate --executor inline")
@click.argument("key", metavar="KEY|NAME|RUN/NODE", shell_complete=complete_artifacts)
@click.option("--from-inputs", is_flag=True, help="Take its inputs from the store; make this one artifact again.")
@click.option("--scratch", metavar="DIR", help="Where to make it (a new temporary folder, removed at the end); kept.")
@EXECUTOR
@pass_shell
def reproduce(shell: Shell, key: str, from_inputs: bool, scratch: str | None, executor: ExecutorChoice | None) -> int:
    """Make an artifact and all it was made from again, and compare.

    identical: the same bytes and metrics. within interval: other bytes, and an
    accuracy that its 95% interval does not tell apart. different: exit code 5.
    The store is only read: all is made in a folder of its own. An imported
    model is taken as it is.
    """
    from orchestrator import api
    from orchestrator.cli.naming import artifact_named
    from orchestrator.cli.watching import make_watcher
    from orchestrator.errors import StageFailed
    from orchestrator.report.reproduction import DIFFERENT, copy_artifact, judge, judged_documents, judged_lines
    from orchestrator.report.text import format_seconds, plural
    from orchestrator.workflow.spelled import check_spelled, spell_out

    record = artifact_named(shell.workspace, key)[0]
    spelled = spell_out(record, shell.workspace.artifacts, from_inputs=from_inputs)
    file = f"reproduction of {record.key[:12]}"
    place = Path(scratch) if scratch else Path(tempfile.mkdtemp(prefix="orchestrator-reproduce-"))
    try:
        beside = api.open_workspace(str(place))
        for each in spelled.existing.values():
            copy_artifact(each, shell.workspace.artifacts, beside.artifacts)
        plan = api.plan_checked(check_spelled(spelled, file=file), workspace=beside)
        check_spelled(spelled, file=file, keys={label: node.key for label, node in plan.nodes.items()})
        to_run = plan.with_status(api.Status.RUN, api.Status.SHARED)
        known = sum(each.seconds for each in spelled.records.values() if spelled.names[each.key] in {n.label for n in to_run})
        shell.say(f"making {plural(len(to_run), 'node')} again in {place}; it took {format_seconds(known)} before")
        beside_shell = Shell(
            store_url=str(place), as_json=False, quiet=shell.quiet or shell.as_json, out=shell.out, err=shell.err
        )
        watcher = make_watcher(beside_shell)
        watcher.promise = "Ctrl-C stops it; the store stays as it is"
        with watcher.watching(), shell.libraries_silenced():
            result = api.submit(plan, workspace=beside, executor=executor or "ray", watcher=watcher)
        if result.state is api.State.CANCELLED:
            shell.insist("stopped; the store is as it was")
            return 130
        made = {key: beside.artifacts.find(each.stage, key) for key, each in spelled.records.items()}
        if made[record.key] is None:
            failed = next((node for node in result.status.nodes.values() if node.state == "failed"), None)
            why = f"node {failed.label} failed: {failed.error.strip().splitlines()[0]}" if failed else "its run failed"
            raise StageFailed(
                f"artifact {record.key[:8]} could not be made again: {why}", next_step=f"orchestrator show {record.key[:8]}"
            )
        found = [judge(each.label, each, made[key]) for key, each in spelled.records.items()]
        if shell.as_json:
            shell.document({"key": record.key, "result": found[-1].word, "artifacts": judged_documents(found)})
        else:
            shell.data(judged_lines(found, style=shell.style, width=shell.width))
            shell.data([f"{record.label} {record.key[:8]}: {found[-1].word}"])
        return EXIT_DIFFERENT if found[-1].word == DIFFERENT else 0
    finally:
        if not scratch:
            shutil.rmtree(place, ignore_errors=True)
