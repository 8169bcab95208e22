"""`doctor`: is this machine fit to run workflows, and if not, what to type."""

from __future__ import annotations

import shlex

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.report.text import plural

EXIT_UNFIT = 7


@command("doctor", example="orchestrator doctor --ray\norchestrator doctor --bundle report.zip")
@click.option("--ray", "starts_ray", is_flag=True, help="Also start Ray for a moment (about 10 seconds).")
@click.option("--torch", "loads_torch", is_flag=True, help="Also load torch and look for GPUs with it.")
@click.option("--bundle", metavar="FILE.zip", help="Also write what helps others to help: look through it before sending.")
@pass_shell
def doctor(shell: Shell, starts_ray: bool, loads_torch: bool, bundle: str | None) -> int:
    """Check this machine and the store; say how to mend what is wrong.

    Exits with 7 if something fails; a warning is no failure. The bundle has
    versions, settings, these checks, traces of internal errors, and of the last
    five runs the workflow, events and ends of failed logs; no secrets, no data.
    """
    from orchestrator.cli.doctor_checks import FAIL, run_checks
    from orchestrator.errors import UsageError

    if bundle is not None and not bundle.endswith(".zip"):
        raise UsageError(f'--bundle "{bundle}" is a zip', next_step="orchestrator doctor --bundle report.zip")

    checks = []
    for check in run_checks(shell.workspace.store, starts_ray=starts_ray, loads_torch=loads_torch):
        checks.append(check)
        if not shell.as_json:
            word = shell.style.paint(f"{check.word:<4}", check.word)
            shell.data([f"{word}  {check.name:<14}  {check.found}", *([f"      next: {check.fix}"] if check.fix else [])])
    names = []
    if bundle is not None:
        from orchestrator.cli.config import settings_in_force
        from orchestrator.cli.doctor_bundle import write_bundle

        documents = [vars(check) for check in checks]
        names = write_bundle(bundle, shell.workspace, checks=documents, settings=settings_in_force(shell))
        shell.say(f"{bundle}: {plural(len(names), 'file')}; look through it before you send it: unzip -l {shlex.quote(bundle)}")
    failed = [check for check in checks if check.word == FAIL]
    if shell.as_json:
        written = {"bundle": bundle, "files": names} if bundle is not None else {}
        shell.document({"fit": not failed, "checks": [vars(check) for check in checks], **written})
    elif failed:
        shell.say(f"{len(failed)} of {len(checks)} checks failed: {', '.join(check.name for check in failed)}")
    else:
        shell.say("fit to run workflows")
    return EXIT_UNFIT if failed else 0
