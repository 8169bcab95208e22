"""`artifacts ls` and `artifacts get`: what the store holds, and its files outside the store; and the list of the group."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import click

from orchestrator.cli.completing import complete_artifacts, complete_stages
from orchestrator.cli.group import CONTEXT, LazyGroup, Verb, command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import IntegrityError, UsageError
from orchestrator.store.artifacts import Record
from orchestrator.store.blobs import verify_file

_HERE = "orchestrator.cli"

artifacts = LazyGroup(
    "artifacts",
    help="List finished artifacts; copy, check, name and keep them.",
    context_settings=CONTEXT,
    verbs={
        "ls": Verb(f"{_HERE}.artifacts:list_artifacts", "List finished artifacts, newest first."),
        "get": Verb(f"{_HERE}.artifacts:get", "Copy an artifact's files out of the store, verified."),
        "verify": Verb(f"{_HERE}.artifact_verify:verify", "Read files again; set aside what is damaged."),
        "promote": Verb(f"{_HERE}.artifact_names:promote", "Give an artifact the next version of a name."),
        "names": Verb(f"{_HERE}.artifact_names:names", "List names and pins."),
        "unname": Verb(f"{_HERE}.artifact_names:unname", "Take a name away from an artifact."),
        "pin": Verb(f"{_HERE}.artifact_names:pin", "Keep an artifact from gc."),
        "unpin": Verb(f"{_HERE}.artifact_names:unpin", "Let gc have a pinned artifact again."),
        "import": Verb(f"{_HERE}.artifact_import:import_artifact", "Adopt a model from a folder."),
    },
    example="orchestrator artifacts get 9f31c2d0 ./out",
)


@command("ls", example="orchestrator artifacts ls --stage export.onnx")
@click.option("--stage", metavar="NAME", shell_complete=complete_stages, help="Only artifacts of this stage.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=40, show_default=True, help="How many at most.")
@pass_shell
def list_artifacts(shell: Shell, stage: str | None, limit: int) -> int:
    """List finished artifacts, newest first."""
    from orchestrator.report.text import Column, format_bytes, format_table, format_time, printable

    records = sorted(shell.workspace.artifacts.all_records(stage), key=lambda record: record.finished, reverse=True)
    if shell.as_json:
        names = ("key", "stage", "kind", "label", "finished", "run", "seconds", "size_bytes", "metrics", "measurements")
        shell.document({"artifacts": [{name: getattr(record, name) for name in names} for record in records[:limit]]})
        return 0
    if not records:
        shell.say(f"no artifacts{f' of stage {stage}' if stage else ''} in {shell.place()}. next: orchestrator submit FILE")
        return 0
    columns = [
        Column("KEY"), Column("KIND"), Column("SIZE", right=True), Column("FINISHED (UTC)"), Column("RUN"), Column("STAGE"),
        Column("NODE"),
    ]  # fmt: skip
    rows = [
        [
            record.key[:8], record.kind, format_bytes(record.size_bytes), format_time(record.finished), record.run,
            record.stage, printable(record.label),
        ]
        for record in records[:limit]
    ]  # fmt: skip
    shell.data(format_table(columns, rows, style=shell.style, width=shell.width))
    if len(records) > limit:
        shell.say(f"{len(records) - limit} older ones; next: orchestrator artifacts ls --limit {len(records)}")
    return 0


@command("get", example="orchestrator artifacts get vit-sparse@3 ./out")
@click.argument("key", metavar="KEY|NAME|RUN/NODE", shell_complete=complete_artifacts)
@click.argument("folder", metavar="[DEST]", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files that are there already.")
@pass_shell
def get(shell: Shell, key: str, folder: Path | None, force: bool) -> int:
    """Copy an artifact's files to the folder DEST (default: its stage and key).

    Each is checked against its digest; either all of them appear or none.
    """
    from orchestrator.cli.naming import record_of_key
    from orchestrator.report.text import format_bytes, plural

    record = record_of_key(shell.workspace, key)
    target = folder or Path(f"{record.stage}-{record.key[:8]}")
    standing = [name for name in record.files if os.path.lexists(target / name)]
    if standing and not force:
        raise UsageError(
            f"{target / standing[0]} is there already, and nothing is overwritten",
            next_step=f"orchestrator artifacts get {key} OTHER_DIR, or with --force",
        )
    _copy_files(shell, record, target)
    if shell.as_json:
        files = {name: str(target / name) for name in record.files}
        shell.document({"key": record.key, "stage": record.stage, "folder": str(target), "files": files})
    else:
        shell.data(str(target / name) for name in record.files)
        size = format_bytes(record.size_bytes)
        shell.say(f"{plural(len(record.files), 'file')}, {size}, verified: {record.label} of {record.stage}")
    return 0


def _copy_files(shell: Shell, record: Record, target: Path) -> None:
    """Copy all, verify the copies, and only then give them their names: a file that has its name is whole."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    name = ""
    try:
        for name, entry in record.files.items():
            copy = partial / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shell.workspace.store.blob_path(entry.digest), copy)
            verify_file(copy, digest=entry.digest, size_bytes=entry.size_bytes)
        if not os.path.lexists(target):
            partial.mkdir(parents=True, exist_ok=True)
            partial.rename(target)
            return
        for name in record.files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(target / name)  # a link that stands there is replaced, not followed
    except (IntegrityError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and shell.workspace.artifacts.find(record.stage, record.key) is not None:
            raise UsageError(f"cannot copy {name} to {target}: {error}", next_step="name another folder") from error
        shell.workspace.artifacts.set_aside(record)
        raise IntegrityError(
            f"artifact {record.key[:8]}: {name} is damaged in the store or gone from it; it was set aside",
            next_step="submit its workflow again: it is made anew",
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot copy {name} to {target}: {error.strerror}", next_step="name a folder with space that you may write to"
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)
