"""`stages check`: the exam that every shipped stage sits, for those of a package of one's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli.completing import complete_stages
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError
from stages import catalog
from stages.contract import StageSpec

EXIT_DIFFERS = 5


@command("check", example="orchestrator stages check my_stages.settings")
@click.argument("what", metavar="MODULE|KIND|STAGE", shell_complete=complete_stages)
@pass_shell
def check_stages(shell: Shell, what: str) -> int:
    """Examine stages: described, reproducible, resumable, inside their folders.

    MODULE (my_stages.settings, or my_stages.settings:STAGES) has descriptions of
    stages and need not be installed; it is also looked for in this folder. Each
    runs with its own example, four times: exit 5 where it does not hold up.
    """
    from orchestrator.cli.doctor_checks import FAIL
    from orchestrator.cli.stage_exam import FAILS_ON_PURPOSE, NEEDS_FILES, NEEDS_GPU, examine
    from orchestrator.report.text import plural

    specs, source = _found(what)
    shell.stay()
    documents, failed = [], []
    for spec in specs:
        reasons = {"fails on purpose": FAILS_ON_PURPOSE, "needs a GPU": NEEDS_GPU, "needs a pipeline of diffusers": NEEDS_FILES}
        why = next((reason for reason, names in reasons.items() if spec.name in names), "")
        if why:
            shell.say(f"{spec.name} is left out: it {why}")
            continue
        if not shell.as_json:
            shell.data([f"{shell.style.paint(spec.name, 'bold')}  version {spec.version}"])
        checks = []
        for check in examine(spec, source=source):
            checks.append(check)
            if not shell.as_json:
                word = shell.style.paint(f"{check.word:<4}", check.word)
                shell.data([f"{word}  {check.name:<12}  {check.found}", *([f"      next: {check.fix}"] if check.fix else [])])
        failed += [spec.name] if any(check.word == FAIL for check in checks) else []
        documents.append({"stage": spec.name, "version": spec.version, "checks": [vars(check) for check in checks]})
    if shell.as_json:
        shell.document({"passed": not failed, "stages": documents})
    elif failed:
        shell.say(f"{len(failed)} of {plural(len(documents), 'stage')} failed: {', '.join(failed)}")
    else:
        shell.say(f"{plural(len(documents), 'stage')} passed")
    return EXIT_DIFFERS if failed else 0


def _found(what: str) -> tuple[Sequence[StageSpec], str]:
    """The stages that are meant, and the module to be imported for them where the catalogue does not have them."""
    from orchestrator.cli.stage_exam import load_source

    spec = catalog.find_stage(what)
    if spec is not None:
        return [spec], ""
    if catalog.kind_stages(what):
        return list(catalog.kind_stages(what).values()), ""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return load_source(what), what
    except (ImportError, ValueError) as error:
        raise UsageError(
            f'"{what}" is no stage, no kind of stage and no module with stages: {error}',
            next_step="orchestrator stages new my_kind.my_method",
        ) from error
