"""`doctor`: is this machine fit to run workflows, and if not, what to type."""

from __future__ import annotations

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

EXIT_UNFIT = 7


@command("doctor", example="orchestrator doctor --ray")
@click.option("--ray", "starts_ray", is_flag=True, help="Also start Ray for a moment (about 10 seconds).")
@click.option("--torch", "loads_torch", is_flag=True, help="Also load torch and look for GPUs with it.")
@pass_shell
def doctor(shell: Shell, starts_ray: bool, loads_torch: bool) -> int:
    """Check this machine and the store; say how to mend what is wrong.

    Exits with 7 if something fails; a warning is no failure.
    """
    from orchestrator.cli.doctor_checks import FAIL, run_checks

    checks = []
    for check in run_checks(shell.workspace.store, starts_ray=starts_ray, loads_torch=loads_torch):
        checks.append(check)
        if not shell.as_json:
            word = shell.style.paint(f"{check.word:<4}", check.word)
            shell.data([f"{word}  {check.name:<14}  {check.found}", *([f"      next: {check.fix}"] if check.fix else [])])
    failed = [check for check in checks if check.word == FAIL]
    if shell.as_json:
        shell.document({"fit": not failed, "checks": [vars(check) for check in checks]})
    elif failed:
        shell.say(f"{len(failed)} of {len(checks)} checks failed: {', '.join(check.name for check in failed)}")
    else:
        shell.say("fit to run workflows")
    return EXIT_UNFIT if failed else 0
