"""The bytes of a workflow file: found, bounded in size, UTF-8. Knows nothing of their meaning."""

from __future__ import annotations

import stat
from pathlib import Path

from orchestrator.errors import Problem, WorkflowError
from orchestrator.workflow.places import list_names, nearest, validate_command

MAX_BYTES = 4 * 2**20
SUFFIXES = (".yaml", ".yml")


def read_source(path: Path) -> bytes:
    """Content of the workflow file; raises WorkflowError that names files nearby where there is none."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise _unreadable(path, "is a folder" if stat.S_ISDIR(mode) else "is not a plain file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, "does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _unreadable(path, f"cannot be read: {reason}") from error


def checked_bytes(text: str | bytes, *, file: str) -> bytes:
    """The text as UTF-8 bytes without a byte order mark; raises WorkflowError for what no workflow file can hold."""
    if isinstance(text, str):
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise _refused(
                file, line, "the text holds half of a surrogate pair", found=f"U+{ord(text[error.start]):04X}"
            ) from None
    else:
        data = bytes(text)
    if len(data) > MAX_BYTES:
        raise WorkflowError(
            [
                Problem(
                    file=file,
                    line=0,
                    column=0,
                    what="the file is too large for a workflow",
                    found=f"more than {MAX_BYTES // 2**20} MiB" if len(data) == MAX_BYTES + 1 else f"{len(data)} bytes",
                    expected=f"at most {MAX_BYTES // 2**20} MiB ({MAX_BYTES} bytes) of YAML",
                    suggestion="keep data in files that a stage reads; a workflow only names them",
                    next_step=validate_command(file),
                )
            ]
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        note = "the file starts like UTF-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else ""
        raise _bad_byte(file, data, error.start, "is not UTF-8 text", note) from None
    if b"\0" in data:
        raise _bad_byte(file, data, data.index(b"\0"), "holds a NUL byte, which no text file has", "is this a binary file?")
    return data.removeprefix(b"\xef\xbb\xbf")


def _bad_byte(file: str, data: bytes, offset: int, what: str, note: str) -> WorkflowError:
    line = data.count(b"\n", 0, offset) + 1
    return _refused(file, line, f"the file {what}", found=f"byte 0x{data[offset]:02x} at byte offset {offset}", note=note)


def _refused(file: str, line: int, what: str, *, found: str, note: str = "") -> WorkflowError:
    problem = Problem(
        file=file,
        line=line,
        column=1,
        what=what,
        found=found,
        expected="YAML text in UTF-8",
        suggestion="save the file as UTF-8",
        next_step=validate_command(file),
        note=note,
    )
    return WorkflowError([problem])


def _unreadable(path: Path, what: str) -> WorkflowError:
    here = path if what == "is a folder" else path.parent
    names = {entry: str(here / entry) for entry in _workflow_files(here)}
    close = [names[name] for name in nearest(path.name, names)] if here != path else []
    if not names and here != Path("workflows"):
        names = {entry: str(Path("workflows", entry)) for entry in _workflow_files(Path("workflows"))}
    problem = Problem(
        file=str(path),
        line=0,
        column=0,
        what=f"the workflow file {what}",
        found="no file of this name" if what == "does not exist" else str(path),
        expected="the path of a YAML file" + (f"; nearby: {list_names(sorted(names.values()), limit=8)}" if names else ""),
        suggestion=f"did you mean {' or '.join(close)}?" if close else "",
        next_step=f"orchestrator validate {close[0] if close else 'FILE.yaml'}",
    )
    return WorkflowError([problem])


def _workflow_files(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    except (OSError, ValueError):
        return []
