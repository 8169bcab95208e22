"""Where text goes: data to stdout, words for people to stderr, and whether either may be coloured.

A reader that goes away (`orchestrator ls | head`) ends the text and nothing else: a run does not die with its audience.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.report.text import Style, without_colours

if TYPE_CHECKING:
    from orchestrator.api import Workspace
    from orchestrator.cli.profiles import Profile

SCHEMA = 1
"""Version of every JSON document that the command line writes."""


@dataclass
class Shell:
    """The global flags of one call, and its two streams."""

    store_url: str | None = None
    profile_name: str | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    log_path: str | None = None
    arguments: Sequence[str] = ()
    out: IO[str] = field(default_factory=lambda: sys.stdout)
    err: IO[str] = field(default_factory=lambda: sys.stderr)
    _closed: set[int] = field(default_factory=set)

    @cached_property
    def log(self) -> IO[str]:
        """The file of --log-file, to be added to; UsageError where it cannot be written."""
        assert self.log_path is not None
        try:
            return open(self.log_path, "a", encoding="utf-8")  # noqa: PTH123 - open until the call ends
        except OSError as error:
            path, self.log_path = self.log_path, None
            raise UsageError(
                f"--log-file {path} cannot be written: {error.strerror}",
                next_step="name a file in a folder that is there and may be written to",
            ) from error

    def record(self, *lines: str) -> None:
        """Lines for --log-file: each with its time, without colours, whatever the streams show."""
        if self.log_path is not None:
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._write(self.log, "".join(f"{stamp}  {without_colours(line)}\n" for line in lines if line))

    @cached_property
    def workspace(self) -> Workspace:
        """The store that the flags name, opened on first use."""
        from orchestrator.api import open_workspace

        return open_workspace(self.store_url or (self.profile.store if self.profile_name else None))

    @cached_property
    def profile(self) -> Profile:
        """The profile that --profile names; one that says nothing without it."""
        from orchestrator.cli.profiles import Profile, load_profile

        return load_profile(self.profile_name) if self.profile_name else Profile()

    def data(self, lines: Iterable[str]) -> None:
        """Lines that the command was asked for, to stdout."""
        told = [self._with_store(line) for line in lines]
        self._write(self.out, "".join(f"{line}\n" for line in told))
        self.record(*told)

    def document(self, content: Mapping[str, Any]) -> None:
        """The one JSON document of the call, to stdout."""
        self._write(self.out, json.dumps({"schema": SCHEMA, **content}, indent=2, default=_plain) + "\n")

    def json_line(self, content: Mapping[str, Any]) -> None:
        """One line of a JSON stream, to stdout."""
        self._write(self.out, json.dumps({"schema": SCHEMA, **content}, default=_plain) + "\n")

    def say(self, *lines: str) -> None:
        """Lines for people, to stderr; silent under --quiet and --json."""
        if self.quiet or self.as_json:
            self.record(*map(self._with_store, lines))
        else:
            self.insist(*lines)

    def insist(self, *lines: str) -> None:
        """Lines for people that --quiet does not hide: warnings and errors."""
        told = [self._with_store(line) for line in lines]
        self.show(*told)
        self.record(*told)

    def show(self, *lines: str) -> None:
        """Lines for people that --log-file has otherwise."""
        self._write(self.err, "".join(f"{line}\n" for line in lines))

    def place(self) -> str:
        """The store, as a person would name it."""
        root = self.workspace.store.url.removeprefix("file://")
        here = os.getcwd()  # noqa: PTH109 - pathlib is not needed for one prefix
        return os.path.relpath(root) if root.startswith(f"{here}{os.sep}") else root

    @contextmanager
    def libraries_silenced(self) -> Iterator[None]:
        """Keep what libraries print in this process off both streams: Ray tells of lost workers on stdout, in its own words.

        With --verbose it goes to stderr.
        """
        with ExitStack() as stack:
            sink = self.err if self.verbose else stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            stack.enter_context(redirect_stdout(sink))
            stack.enter_context(redirect_stderr(sink))
            yield

    def stay(self) -> None:
        """This call will last: collect garbage again, which short calls do without."""
        gc.enable()

    @cached_property
    def style(self) -> Style:
        """Colours of stdout."""
        return Style(self._may_colour(self.out))

    @cached_property
    def err_style(self) -> Style:
        """Colours of stderr."""
        return Style(self._may_colour(self.err))

    @property
    def width(self) -> int | None:
        """Columns of stdout; None where it is no terminal and no line needs to be cut."""
        return shutil.get_terminal_size().columns if self.out.isatty() else None

    @property
    def err_width(self) -> int | None:
        """Columns of stderr; None where it is no terminal."""
        return shutil.get_terminal_size().columns if self.err.isatty() else None

    @property
    def is_live(self) -> bool:
        """Whether lines may be drawn over."""
        return self.err.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def reader_is_gone(self) -> bool:
        """Whether nobody reads stdout any more."""
        return id(self.out) in self._closed

    def close(self) -> None:
        """Send what is buffered; quiet about a reader that went away."""
        if "log" in vars(self):
            self.log.close()
        for stream in (self.out, self.err):
            self._write(stream, "")
            if id(stream) in self._closed:  # else the interpreter would complain about the rest of the buffer at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    @property
    def program(self) -> str:
        """How to call this command line on the same store again."""
        flags = {"--profile": self.profile_name, "--store": self.store_url}
        return " ".join(["orchestrator", *(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)])

    def _with_store(self, line: str) -> str:
        """Whoever names a command to type next need not know of --store and --profile: they are added here."""
        return line.replace("next: orchestrator ", f"next: {self.program} ") if self.program != "orchestrator" else line

    def _may_colour(self, stream: IO[str]) -> bool:
        return stream.isatty() and not self.no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _write(self, stream: IO[str], text: str) -> None:
        if id(stream) in self._closed:
            return
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(stream, "encoding", None) or "ascii"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (BrokenPipeError, ValueError):
            self._closed.add(id(stream))


def _plain(value: Any) -> Any:
    return (
        dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, (set, frozenset, tuple)) else str(value)
    )
