"""`artifacts promote`, `names`, `pin` and `unpin`: what people want to keep, and what to call it."""

from __future__ import annotations

import difflib

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("promote", example='orchestrator artifacts promote 9f31c2d0 vit-sparse --note "2:4"')
@click.argument("key", metavar="KEY|NAME|RUN/NODE")
@click.argument("name")
@click.option("--note", metavar="TEXT", default="", help="Why, for whoever reads the list.")
@pass_shell
def promote(shell: Shell, key: str, name: str, note: str) -> int:
    """Give an artifact the next version of NAME.

    A version means the same artifact for ever. NAME (its newest version) and
    NAME@2 stand wherever a key does; gc keeps what has a name, and its inputs.
    """
    from orchestrator.cli.naming import record_of_key
    from orchestrator.store.names import Names, check_name

    check_name(name)
    record = record_of_key(shell.workspace, key)
    known = Names(shell.workspace.store)
    before = known.find(name)
    mark = known.promote(record, name, note=note)
    if shell.as_json:
        shell.document(
            {"name": mark.name, "version": mark.version, "key": mark.key, "stage": mark.stage, "new": mark != before}
        )
        return 0
    shell.data([str(mark)])
    is_old = " already" if mark == before else ""
    shell.say(f"{mark} is{is_old} artifact {mark.key[:8]} of {mark.stage}", f"next: orchestrator artifacts get {mark} ./out")
    return 0


@command("names", example="orchestrator artifacts names")
@click.argument("name", required=False)
@pass_shell
def names(shell: Shell, name: str | None) -> int:
    """List names and pins, or all versions of NAME."""
    from orchestrator.report.text import Column, format_table, format_time, printable
    from orchestrator.store.names import Names

    known = Names(shell.workspace.store)
    marks = known.versions(name) if name else [*known.all_names(), *known.all_pins()]
    artifacts = shell.workspace.artifacts
    artifacts.look_ahead((mark.stage, mark.key) for mark in marks)
    whole = {mark.key: artifacts.find(mark.stage, mark.key) is not None for mark in marks}
    if shell.as_json:
        shell.document({"names": [{**vars(mark), "whole": whole[mark.key]} for mark in marks if mark.name],
                        "pins": [{**vars(mark), "whole": whole[mark.key]} for mark in marks if not mark.name]})  # fmt: skip
        return 0
    if not marks:
        what = f"no name {name}" if name else "no names and no pins"
        shell.say(f"{what} in {shell.place()}. next: orchestrator artifacts promote KEY NAME")
        return 0
    columns = [Column("NAME"), Column("KEY"), Column("SINCE (UTC)"), Column("STAGE"), Column("NOTE")]
    rows = [
        [
            str(mark) if mark.name else "(pin)", mark.key[:8], format_time(mark.created), mark.stage,
            printable(mark.note) if whole[mark.key] else f"GONE or damaged  {printable(mark.note)}",
        ]
        for mark in marks
    ]  # fmt: skip
    shell.data(format_table(columns, rows, style=shell.style, width=shell.width))
    return 0


@command("unname", example="orchestrator artifacts unname vit-sparse@3 --apply")
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--apply", "is_applied", is_flag=True, help="Take it away; without it nothing is changed.")
@pass_shell
def unname(shell: Shell, name: str, is_applied: bool) -> int:
    """Show what a name means; take it away with --apply, all versions or one.

    The artifact stays until gc finds no other reason to keep it. A version that
    was taken away never means another artifact: the next one is the next number.
    """
    from orchestrator.errors import UsageError
    from orchestrator.report.text import plural
    from orchestrator.store.names import Names

    known = Names(shell.workspace.store)
    one = known.find(name) if "@" in name else None
    marks = [one] if one is not None else known.versions(name) if "@" not in name else []
    if not marks:
        near = difflib.get_close_matches(name.partition("@")[0], {mark.name for mark in known.all_names()}, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UsageError(f'there is no name "{name}" in {shell.place()}{hint}', next_step="orchestrator artifacts names")
    gone = [mark for mark in marks if is_applied and known.unname(mark)]
    if shell.as_json:
        shell.document({"names": [vars(mark) for mark in marks], "removed": [str(mark) for mark in gone]})
        return 0
    shell.data(f"{mark}  {mark.key[:8]}  {mark.stage}" for mark in marks)
    if is_applied:
        shell.say(f"{plural(len(gone), 'version')} taken away; next: orchestrator gc")
    else:
        shell.say(f"nothing was changed. next: orchestrator artifacts unname {name} --apply")
    return 0


@command("pin", example="orchestrator artifacts pin 9f31c2d0")
@click.argument("key", metavar="KEY|NAME|RUN/NODE")
@click.option("--note", metavar="TEXT", default="", help="Why, for whoever reads the list.")
@pass_shell
def pin(shell: Shell, key: str, note: str) -> int:
    """Keep an artifact, and all it was made from, from gc."""
    from orchestrator.cli.naming import record_of_key
    from orchestrator.store.names import Names

    mark = Names(shell.workspace.store).pin(record_of_key(shell.workspace, key), note=note)
    if shell.as_json:
        shell.document({"key": mark.key, "stage": mark.stage, "pinned": True})
    else:
        shell.say(f"artifact {mark.key[:8]} of {mark.stage} is pinned: gc keeps it and its inputs")
    return 0


@command("unpin", example="orchestrator artifacts unpin 9f31c2d0")
@click.argument("key", metavar="KEY|NAME|RUN/NODE")
@pass_shell
def unpin(shell: Shell, key: str) -> int:
    """Let gc have a pinned artifact again; its names stay and keep it."""
    from orchestrator.cli.naming import record_of_key
    from orchestrator.errors import UsageError
    from orchestrator.store.names import Names

    known = Names(shell.workspace.store)
    pinned = [mark.key for mark in known.all_pins() if len(key) >= 4 and mark.key.startswith(key.lower())]
    found = pinned[0] if len(pinned) == 1 else record_of_key(shell.workspace, key).key  # a pin may outlive its artifact
    if not known.unpin(found):
        raise UsageError(f"artifact {found[:8]} is not pinned", next_step="orchestrator artifacts names")
    if shell.as_json:
        shell.document({"key": found, "pinned": False})
    else:
        shell.say(f"artifact {found[:8]} is not pinned any more")
    return 0
