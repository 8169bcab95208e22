"""YAML text -> plain data and the line of every value. The only importer of the YAML library; knows no workflow.

Values follow YAML 1.2 (see `core_schema`), whatever the library does by itself. Only data is accepted: one document, text as
keys, no tags of one's own, no merge keys. Anchors and aliases may be used, and count as if they were written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.errors import Problem, WorkflowError
from orchestrator.workflow.core_schema import TOO_LONG, plain_value
from orchestrator.workflow.places import Findings, KeyPath, Places, shorten, validate_command

MAX_VALUES = 100_000
MAX_DEPTH = 50
MAX_INT = 2**63
MAX_PROBLEMS = 200  # beyond, the file is no workflow with mistakes but something else

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {"int": int, "float": float, "bool": bool, "null": type(None)}
_NO_KEY: Any = object()  # a mapping that waits for its next key
_SKIP: Any = object()  # a mapping whose next value is thrown away, since its key was refused
_TEACH = (  # what libyaml says -> what to do about it
    ("mapping values are not allowed", "put a value that holds ': ' in quotes; start a nested mapping on a line of its own"),
    ("could not find expected ':'", "write each line of a mapping as `key: value`, with a space after the colon"),
    ("did not find expected key", "give the keys of one mapping the same indentation; close every quote"),
    ("did not find expected '-' indicator", "give all items of the list the same indentation"),
    ("did not find expected ',' or", "close the bracket, and put commas between the values"),
    ("unexpected end of stream", "close the quote that was opened here"),
    ("cannot start any token", "put a value that starts with @, ` or % in quotes"),
    ("did not find expected alphabetic or numeric", "put a value that starts with * or & in quotes"),
    ("block sequence entries are not allowed", "start the list on a line of its own, under its key"),
    ("unknown escape character", "use single quotes, or double the backslash"),
    ("invalid Unicode character escape", "write the character itself; half of a surrogate pair is none"),
    ("control characters are not allowed", "remove the invisible character"),
)


@dataclass(frozen=True)
class _Mark:
    """A place in the text, counted from 0, where the library gives none."""

    line: int
    column: int = 0


class _Open:
    """A mapping or list whose end has not been met. What is under `discard` is read and thrown away."""

    __slots__ = ("anchor", "before", "discard", "key", "path", "value")

    def __init__(self, value: Any, path: KeyPath, *, anchor: str | None, before: int, discard: bool) -> None:
        self.value = value
        self.path = path
        self.anchor = anchor
        self.before = before
        self.discard = discard
        self.key: Any = _NO_KEY


class YamlReader:
    """Reads one text. Problems that leave the rest readable are collected in `findings`; others raise WorkflowError.

    Parser events are turned into data without recursion, so that no nesting can exhaust the stack.
    """

    def __init__(self, data: bytes, *, file: str) -> None:
        self.positions: dict[KeyPath, tuple[int, int]] = {}
        self.aliases: dict[KeyPath, KeyPath] = {}
        self.findings = Findings(Places(file=file, positions=self.positions, aliases=self.aliases))
        self._data = data
        self._file = file
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, KeyPath, int]] = {}
        self._num_values = 0
        self._result: Any = None

    def read(self) -> Any:
        """The text's one document as dict, list, str, int, float, bool and None; None for an empty text."""
        num_documents = 0
        try:
            parser = _Parser(self._data)
            while True:
                event = parser.get_event()
                match event:
                    case yaml.ScalarEvent():
                        self._scalar(event)
                    case yaml.MappingStartEvent():
                        self._start(event, {})
                    case yaml.SequenceStartEvent():
                        self._start(event, [])
                    case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                        self._end()
                    case yaml.AliasEvent():
                        self._alias(event)
                    case yaml.DocumentStartEvent():
                        num_documents += 1
                        if num_documents > 1:
                            break
                    case yaml.StreamEndEvent():
                        return self._result
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two from escapes beyond Unicode
            raise self._unreadable(error) from None
        self._add(
            event.start_mark,
            "a second document starts here",
            found="---",
            expected="one workflow per file",
            suggestion="remove the --- line, or move what follows to a file of its own",
        )
        return self._result

    def _scalar(self, event: Any) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is _NO_KEY and type(top.value) is dict:
            top.key = _SKIP if top.discard else self._key(event, top)
            return
        path, discard = self._here(event)
        self._count(event, 1)
        value = self._resolve(event, path)
        if event.anchor:
            self._anchors[event.anchor] = (value, path, 1)
        self._attach(value, discard=discard)

    def _key(self, event: Any, top: _Open) -> Any:
        name, mark = event.value, event.start_mark
        if not _encodable(name):
            self._half_character(event, top.path)
            return _SKIP
        plain = not event.style and event.tag is None
        if plain and name == "<<":
            self.findings.reported.add(top.path)  # what is missing here may well be in what should have been merged
            self._add(
                mark,
                "merge keys are not part of YAML 1.2",
                found="<<",
                expected="each key written out",
                suggestion="write the merged keys here, or share a whole value with an alias: params: *name",
            )
            return _SKIP
        if plain and not isinstance(plain_value(name), str):
            self._add(
                mark,
                "a key is not text",
                found=f'"{shorten(name)}:"' if name else "an empty key",
                expected="text before the colon",
                suggestion=f'put it in quotes: "{name}":' if name else "write the key before the colon",
            )
            return _SKIP
        path = (*top.path, name)
        if name in top.value:
            self._add(
                mark,
                f'the key "{shorten(name)}" is given twice in one mapping',
                found=f'"{shorten(name)}" on line {self.positions[path][0]} and on line {mark.line + 1}',
                expected="each key once",
                suggestion="keep one of the two lines",
            )
            return _SKIP
        top.value[name] = None
        self.positions[path] = (mark.line + 1, mark.column + 1)
        return name

    def _start(self, event: Any, value: Any) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is _NO_KEY and type(top.value) is dict:
            if not top.discard:
                self._no_complex_key(event)
            path, discard = top.path, True
        else:
            path, discard = self._here(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._fatal(
                event.start_mark,
                "the values are nested too deep",
                found=f"more than {MAX_DEPTH} levels",
                expected=f"at most {MAX_DEPTH} levels",
                suggestion="close brackets that were opened by mistake",
            )
        if event.tag not in {None, "!", f"{_CORE_TAG}{'map' if type(value) is dict else 'seq'}"}:
            self._no_tag(event, path)
        self._count(event, 1)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._stack.append(_Open(value, path, anchor=event.anchor, before=self._num_values, discard=discard))

    def _end(self) -> None:
        closed = self._stack.pop()
        if closed.anchor:
            self._anchors[closed.anchor] = (closed.value, closed.path, self._num_values - closed.before + 1)
        self._attach(closed.value, discard=closed.discard)

    def _alias(self, event: Any) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and top.key is _NO_KEY and type(top.value) is dict:
            if not top.discard:
                self._no_complex_key(event)
            top.key = _SKIP
            return
        path, discard = self._here(event)
        value, source, size = self._anchors.get(event.anchor, (None, None, 1))
        self._count(event, size)
        if source is None:
            inside = any(frame.anchor == event.anchor for frame in self._stack)
            self._add(
                event.start_mark,
                f'the alias "*{shorten(event.anchor)}" stands inside its own anchor'
                if inside
                else f'the alias "*{shorten(event.anchor)}" has no anchor before it',
                found=f"*{shorten(event.anchor)}",
                expected=f"a value marked &{shorten(event.anchor)} that ends before this line",
                suggestion=self.findings.did_you_mean(event.anchor, self._anchors) or "write the value out",
            )
            self.findings.reported.add(path)
        else:
            self.aliases[path] = source
        self._attach(value, discard=discard)

    def _here(self, event: Any) -> tuple[KeyPath, bool]:
        """KeyPath of the value that begins with `event`, and whether it is thrown away."""
        if not self._stack:
            path: KeyPath = ()
        else:
            top = self._stack[-1]
            if top.discard or top.key is _SKIP:
                return top.path, True
            if type(top.value) is dict:
                return (*top.path, top.key), False
            path = (*top.path, len(top.value))
        self.positions[path] = (event.start_mark.line + 1, event.start_mark.column + 1)
        return path, False

    def _attach(self, value: Any, *, discard: bool) -> None:
        if not self._stack:
            self._result = value
            return
        top = self._stack[-1]
        if type(top.value) is list:
            if not discard:
                top.value.append(value)
        elif top.key is _NO_KEY:
            top.key = _SKIP  # it was a mapping or list in the place of a key
        else:
            if not discard:
                top.value[top.key] = value
            top.key = _NO_KEY

    def _count(self, event: Any, size: int) -> None:
        self._num_values += size
        if self._num_values > MAX_VALUES:
            aliased = " once its aliases are written out" if self.aliases else ""
            raise self._fatal(
                event.start_mark,
                f"the file holds too many values{aliased}",
                found=f"more than {MAX_VALUES} values",
                expected=f"at most {MAX_VALUES} values",
                suggestion="keep data in files that a stage reads; use fewer aliases of aliases",
            )

    def _resolve(self, event: Any, path: KeyPath) -> Any:
        text, tag = event.value, event.tag
        if not _encodable(text):
            self._half_character(event, path)
            return ""
        if tag is None:
            value = text if event.style else plain_value(text)
        elif tag in {"!", f"{_CORE_TAG}str"}:
            return text
        else:
            value = plain_value(text)
            expected = _SCALAR_TAGS.get(tag.removeprefix(_CORE_TAG)) if tag.startswith(_CORE_TAG) else None
            if expected is float and type(value) is int:
                value = float(value) if abs(value) < MAX_INT else value
            if type(value) is not expected:
                self._no_tag(event, path)
        if (type(value) is int and not -MAX_INT <= value < MAX_INT) or value is TOO_LONG:
            self._refuse(event, path, "the number is too large", f"{len(text)} characters", "a whole number below 2^63")
            return 0
        if type(value) is float and math.isinf(value) and "f" not in text.lower():
            self._refuse(event, path, "the number is too large", shorten(text), "a number below 1.8e308")
            return 0.0
        return value

    def _half_character(self, event: Any, path: KeyPath) -> None:
        self._refuse(event, path, "the text holds half of a surrogate pair", "\\uD800 to \\uDFFF", "whole characters")

    def _no_complex_key(self, event: Any) -> None:
        self._add(
            event.start_mark,
            "a key is not text",
            found="a mapping, list or alias in the place of a key",
            expected="text before the colon",
            suggestion="put values that start with [ { or * in quotes",
        )

    def _no_tag(self, event: Any, path: KeyPath) -> None:
        tag = event.tag.replace(_CORE_TAG, "!!")
        self._refuse(event, path, f'the tag "{shorten(tag)}" is not allowed here', shorten(tag), "plain data without tags")

    def _refuse(self, event: Any, path: KeyPath, what: str, found: str, expected: str) -> None:
        self._add(event.start_mark, what, found=found, expected=expected, suggestion="write the plain value")
        self.findings.reported.add(path)

    def _add(self, mark: Any, what: str, *, found: str, expected: str, suggestion: str, note: str = "") -> None:
        problem = Problem(
            file=self._file,
            line=mark.line + 1,
            column=mark.column + 1,
            what=what,
            found=found,
            expected=expected,
            suggestion=suggestion,
            next_step=validate_command(self._file),
            note=note,
        )
        self.findings.problems.append(problem)
        if len(self.findings.problems) >= MAX_PROBLEMS:
            raise WorkflowError(self.findings.sorted())

    def _fatal(self, mark: Any, what: str, *, found: str, expected: str, suggestion: str, note: str = "") -> WorkflowError:
        self._add(mark, what, found=found, expected=expected, suggestion=suggestion, note=note)
        return WorkflowError(self.findings.sorted())

    def _syntax(self, error: yaml.MarkedYAMLError) -> WorkflowError:
        mark: Any = error.problem_mark or error.context_mark
        said = error.problem or "it is not YAML"
        lines = self._data.decode(errors="replace").split("\n")
        tabbed = _tab_indented(lines, mark.line)
        if tabbed is not None:
            mark = _Mark(tabbed)
            what, expected = "a tab is used for indentation", "spaces: YAML does not allow tabs there"
            suggestion = "replace each tab at the start of the line by two spaces"
        else:
            if "end of stream" in said and error.context_mark:
                mark = error.context_mark
            what, expected = f"the YAML cannot be read: {said}", "valid YAML"
            suggestion = next((advice for words, advice in _TEACH if words in said), "look at this line and the one above it")
        found = shorten(lines[mark.line].strip()) if mark.line < len(lines) else ""
        started = error.context_mark
        note = f"{error.context}, which starts on line {started.line + 1}" if started and started.line != mark.line else ""
        return self._fatal(mark, what, found=f'"{found}"' if found else "the end of the file", expected=expected,
                           suggestion=suggestion, note=note)  # fmt: skip

    def _unreadable(self, error: Exception) -> WorkflowError:
        offset = getattr(error, "position", None)
        line = self._data.count(b"\n", 0, offset) if isinstance(offset, int) else 0
        said = str(getattr(error, "reason", error)).partition("\n")[0]
        character = getattr(error, "character", None)
        found = f"character U+{character:04X}" if isinstance(character, int) else "this line"
        suggestion = next((advice for words, advice in _TEACH if words in said), "look at this line and the one above it")
        mark = _Mark(line)
        what = f"the YAML cannot be read: {said}"
        return self._fatal(mark, what, found=found, expected="YAML text", suggestion=suggestion)


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _tab_indented(lines: list[str], near: int) -> int | None:
    """The first of the lines around `near` whose indentation holds a tab."""
    for number in range(max(0, near - 1), min(len(lines), near + 2)):
        line = lines[number]
        if "\t" in line[: len(line) - len(line.lstrip())] and line.strip():
            return number
    return None
