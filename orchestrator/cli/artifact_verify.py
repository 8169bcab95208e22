"""`artifacts verify`: every byte is read again and held against its digest."""

from __future__ import annotations

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

EXIT_DIFFERS = 5


@command("verify", example="orchestrator artifacts verify --all")
@click.argument("keys", metavar="[KEY|NAME]...", nargs=-1)
@click.option("--all", "wants_all", is_flag=True, help="Every artifact of the store.")
@pass_shell
def verify(shell: Shell, keys: tuple[str, ...], wants_all: bool) -> int:
    """Read the files of artifacts and check them against their digests.

    On S3 they are fetched from the server, whatever this machine has at hand.
    What is damaged or missing is set aside (quarantine/), so that the next run
    makes it again; then the exit code is 5.
    """
    from orchestrator.cli.verify_bar import VerifyBar
    from orchestrator.errors import UsageError
    from orchestrator.report.text import format_bytes, plural
    from orchestrator.store.verify import verify_artifacts

    if wants_all == bool(keys):
        raise UsageError("name the artifacts to verify, or give --all", next_step="orchestrator artifacts verify --all")
    shell.stay()
    wanted = None if wants_all else [_place_of(shell, key) for key in keys]
    bar = VerifyBar(shell)
    try:
        result = verify_artifacts(shell.workspace.store, wanted, advance=bar.advance)
    finally:
        bar.clear()
    if shell.as_json:
        shell.document({
            "verified": result.num_sound,
            "size_bytes": result.read_bytes,
            "read_from": shell.workspace.store.url,
            "damaged": [vars(problem) for problem in result.problems],
        })  # fmt: skip
    else:
        shell.data(f"{problem.stage} {problem.key[:8]}  {problem.what}" for problem in result.problems)
        shell.say(f"{plural(result.num_sound, 'artifact')} whole, {format_bytes(result.read_bytes)} read from {shell.place()}")
    if result.problems:
        shell.say(
            f"{plural(len(result.problems), 'artifact')} damaged and set aside",
            "   next: submit their workflows again: what is missing is made anew",
        )
    return EXIT_DIFFERS if result.problems else 0


def _place_of(shell: Shell, text: str) -> tuple[str, str]:
    """Stage and key; of a damaged artifact too, which `record_of_key` refuses."""
    from orchestrator.cli.naming import record_of_key
    from orchestrator.store.names import Names

    mark = Names(shell.workspace.store).find(text)
    if mark is not None:
        return mark.stage, mark.key
    found = shell.workspace.artifacts.keys_starting(text.lower()) if text else []
    if len(found) == 1:
        return found[0]
    record = record_of_key(shell.workspace, text)  # which says what is wrong
    return record.stage, record.key
