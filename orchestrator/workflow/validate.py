"""Data against a pydantic model, and the model's complaints in the user's words: what, found, expected, suggestion.

Validation is strict, as JSON: text is never taken for a number, `true` never for 1, and a list may stand for a tuple.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.workflow.places import Findings, KeyPath, entry, list_names, nearest, shorten
from orchestrator.workflow.spec import NAME_PATTERN, NAME_RULE

Model = TypeVar("Model", bound=BaseModel)

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "none_required": "nothing (null)",
}
_BOUNDS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}
_TRUTH_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One complaint. `path` leads through the data as far as it goes; the name of a missing key is in `missing`."""

    path: KeyPath
    kind: str
    value: Any
    expected: str
    legal: tuple[str, ...] = ()
    missing: str = ""
    in_union: bool = False


def validate_data(model: type[Model], data: Mapping[str, Any]) -> Model:
    """`data` as `model`; raises pydantic's ValidationError."""
    return model.model_validate_json(json.dumps(data, ensure_ascii=False), strict=True)


def defects(error: ValidationError, data: Any) -> list[Defect]:
    """The complaints of pydantic about `data`, one per place: a union's branches are merged, follow-ups dropped."""
    found = [_defect(_with_length(details), data) for details in error.errors(include_url=False)]
    unknown = {defect.path: defect for defect in found if defect.kind == "unknown"}
    merged: dict[tuple[KeyPath, str], Defect] = {}
    for defect in found:
        if defect.in_union and any(other.path[: len(defect.path)] == defect.path != other.path for other in found):
            continue  # another branch of the union got further into the value; its complaint is the one meant
        if defect.missing and any(
            path[:-1] == defect.path and defect.missing in nearest(str(path[-1]), [defect.missing]) for path in unknown
        ):
            continue  # the missing key is there, misspelt, and that is told already
        first = merged.setdefault((defect.path, defect.missing), defect)
        if first is not defect and defect.expected and defect.expected not in first.expected:
            expected = f"{first.expected} or {defect.expected}" if first.expected else defect.expected
            merged[defect.path, defect.missing] = Defect(
                path=first.path, kind=first.kind, value=first.value, expected=expected, legal=first.legal + defect.legal
            )
    return list(merged.values())


def report(
    found: Defect,
    *,
    place: KeyPath,
    findings: Findings,
    legal: Callable[[], tuple[str, list[str]]],
    hint: str = "",
    next_step: str = "",
) -> None:
    """Add the problem of one defect at `place`. `legal` gives who takes names here ("a node") and those names.

    `hint` is what to do, where the caller knows better than what follows from the value or from the nearest name.
    """
    prefix, noun = subject(place)
    details = {"next_step": next_step} if next_step else {}
    name = place[-1] if place else ""
    if found.missing:
        prefix, noun = subject((*place, found.missing))
        given = list_names(shorten(key) for key in found.value) if isinstance(found.value, dict) else "none"
        findings.add(
            place,
            f"{prefix}{noun} is missing",
            found=f"{legal()[0]} with {given}" if given != "none" else f"{legal()[0]} with nothing",
            expected=f"a value for {noun}",
            suggestion=f"add {found.missing}: ...",
            **details,
        )
        findings.reported.add((*place, found.missing))
    elif found.kind == "unknown":
        owner, names = legal()
        what = f"{prefix}unknown {noun}" if noun.startswith("parameter") else f"{prefix}unknown key {noun}"
        suggestion = hint or findings.did_you_mean(str(name), names) or _nested(str(name), names) or f"remove {shorten(name)}"
        findings.add(
            place,
            what,
            found=entry(name, found.value),
            expected=f"{owner} takes {list_names(names)}",
            suggestion=suggestion,
            **details,
        )
    else:
        suggestion = hint or _suggest(found, name, findings)
        sentence = {"type": "has the wrong type", "range": "is out of range", "choice": "is not a legal value"}
        what = f"{prefix}{noun} {sentence.get(found.kind, 'cannot be used')}"
        findings.add(place, what, found=entry(name, found.value), expected=found.expected, suggestion=suggestion, **details)


def subject(path: KeyPath) -> tuple[str, str]:
    """How to speak of a path: what stands before the sentence ('node "a": ') and what it is about ('parameter "n_m"').

    A node of a sweep is spoken of as in `--set`: "search.sparsify".
    """
    if len(path) < 2 or path[0] != "nodes":
        return "", f'"{_dotted(path)}"' if path else "the workflow"
    name, rest = shorten(path[1]), path[2:]
    if len(rest) > 1 and rest[0] == "nodes":
        name, rest = f"{name}.{shorten(rest[1])}", rest[2:]
    prefix = f'node "{name}": '
    if not rest:
        return "", prefix.removesuffix(": ")
    match rest:
        case ("params", _, *_):
            return prefix, f'parameter "{_dotted(rest[1:])}"'
        case ("inputs", _, *_):
            return prefix, f'input "{_dotted(rest[1:])}"'
        case ("foreach", key, int(index), *_):
            return prefix, f'value {index + 1} of foreach "{shorten(key)}"'
        case ("foreach", key, *_):
            return prefix, f'foreach "{shorten(key)}"'
        case ("sweep", "space", key, "choice", int(index), *_):
            return prefix, f'value {index + 1} of "{shorten(key)}"'
        case ("sweep", "space", key, "uniform" | "loguniform" | "int", int(index), *_):
            return prefix, f'the {"upper" if index else "lower"} bound of "{shorten(key)}"'
        case ("sweep", _, *_):
            return prefix, f'"{_dotted(rest[1:])}"'
    return prefix, f'"{_dotted(rest)}"'


def takes_names(model: type[BaseModel], path: KeyPath) -> bool:
    """Can what stands at `path` inside `model` hold names at all? Not so for text, a number or a choice of values."""
    plain = (str, int, float, bool, type(None))
    return any(one not in plain and get_origin(one) is not Literal for one in _annotations_at(model, path))


def legal_names(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the fields that the models at `path` inside `model` take; empty where there is no model.

    A class's own fields come before those it inherits: they are what its users came for.
    """
    here = _annotations_at(model, path)
    models = [candidate for candidate in here if isinstance(candidate, type) and issubclass(candidate, BaseModel)]
    names: dict[str, None] = {}
    for each in models:
        for ancestor in each.__mro__:
            own = [name for name in inspect.get_annotations(ancestor) if name in each.model_fields]
            names.update(dict.fromkeys(each.model_fields[name].alias or name for name in own))
    return list(names)


def _annotations_at(model: type[BaseModel], path: KeyPath) -> list[Any]:
    here: list[Any] = _flat([model])
    for part in path:
        below: list[Any] = []
        for candidate in here:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                below += [field.annotation for name, field in candidate.model_fields.items() if part in {name, field.alias}]
            else:
                below += [argument for argument in get_args(candidate)[-1:] if argument is not Ellipsis]
                below += list(get_args(candidate)[:1]) if get_origin(candidate) is tuple else []
        here = _flat(below)
    return here


def _flat(annotations: list[Any]) -> list[Any]:
    flat = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Annotated:
            flat += _flat([get_args(annotation)[0]])
        elif origin is Union or origin is types.UnionType:
            flat += _flat(list(get_args(annotation)))
        else:
            flat.append(annotation)
    return flat


def _dotted(path: KeyPath) -> str:
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path)
    return shorten(text.removeprefix("."))


def _with_length(details: ErrorDetails) -> ErrorDetails:
    """Of a list of fixed length pydantic calls each item that is not there missing; we say how long it should be."""
    *place, last = details["loc"] or ("",)
    if details["type"] != "missing" or not isinstance(last, int):
        return details
    return {**details, "type": "too_short", "loc": tuple(place), "ctx": {"min_length": last + 1}}


def _defect(details: ErrorDetails, data: Any) -> Defect:
    path, node, in_union = [], data, False
    for part in details["loc"]:
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and part in range(len(node))
        if inside:
            path.append(part)
            node = node[part]
        elif part != "[key]":
            in_union = True  # the tag of a union's branch, or the name of a missing key
    context = details.get("ctx", {})
    code, message = details["type"], details["msg"]
    missing = str(details["loc"][-1]) if code == "missing" else ""
    tag = str(context.get("discriminator", "")).strip("'")
    if tag and isinstance(node, dict) and tag in node:
        path.append(tag)
        node = node[tag]
    elif tag and isinstance(node, dict):
        missing = tag
    kind, expected, legal = "value", message.partition(", ")[2] if code in {"value_error", "assertion_error"} else message, ()
    if code == "extra_forbidden":
        kind = "unknown"
    elif code in _WANTED:
        kind, expected = "type", _WANTED[code]
    elif code in _BOUNDS:
        kind, expected = "range", _BOUNDS[code].format_map({name: _number(value) for name, value in context.items()})
    elif code == "union_tag_not_found":
        kind, expected = "type", f"a mapping with {tag}"
    elif code in {"literal_error", "enum", "union_tag_invalid"}:
        choices = str(context.get("expected", context.get("expected_tags", "")))
        kind, expected, legal = "choice", choices.replace("'", '"'), tuple(re.findall(r"'([^']*)'", choices))
    elif code == "string_pattern_mismatch":
        pattern = context["pattern"]
        expected = NAME_RULE if pattern == NAME_PATTERN else f"text of the form {pattern}"
    elif "union" in code or code.startswith("json"):
        kind = "type"
    return Defect(
        path=tuple(path),
        kind=kind,
        value=node,
        expected=expected.removeprefix("expected "),
        legal=legal,
        missing=missing,
        in_union=in_union and not missing,
    )


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)


def _nested(name: str, names: list[str]) -> str:
    head, dot, rest = name.partition(".")
    return f"write it nested: {head}: {{{rest}: ...}}" if dot and head in names else ""


def _suggest(found: Defect, name: str | int, findings: Findings) -> str:
    value, key = found.value, f"{name}: " if isinstance(name, str) else ""
    if found.legal:
        return findings.did_you_mean(str(value), found.legal) or f"choose one of {list_names(found.legal)}"
    bound = re.search(r"at (least|most) (\S+)$", found.expected)
    if bound and isinstance(value, int | float):
        return f"write {key}{bound[2]} or {'more' if bound[1] == 'least' else 'less'}"
    if value is None:
        return f"give {name} a value or remove the line" if key else "give a value"
    if "true or false" in found.expected and isinstance(value, str) and value.lower() in _TRUTH_WORDS:
        return f"write {key}{_TRUTH_WORDS[value.lower()]} (yes, no, on and off are text in YAML 1.2)"
    if (
        "number" in found.expected
        and isinstance(value, str)
        and re.fullmatch(r"[-+]?[0-9_.]+(e[-+]?[0-9]+)?", value, re.IGNORECASE)
    ):
        return f"write {key}{value.replace('_', '')} without quotes or underscores"
    if "a whole number" in found.expected and isinstance(value, float) and value == value // 1:
        return f"write {key}{int(value)}"
    if found.expected == "text" and isinstance(value, bool | int | float):
        return f'put it in quotes: {key}"{shorten(value)}"'
    if found.expected.startswith("a mapping"):
        return f"write the keys of {name} on lines of their own below it, indented" if key else "write key: value"
    if found.expected.endswith("a list") and not isinstance(value, list | dict):
        return f"write {key}[{shorten(value)}]"
    if "with its unit" in found.expected and isinstance(value, int | float):
        unit = "s" if "duration" in found.expected else "MiB"
        return f"say the unit, for example {key}{shorten(value)}{unit}"
    return f"change {name}" if key else "change this value"
