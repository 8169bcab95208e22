"""A stage for reading: what it takes, what it makes, every parameter with its type, range and default, and an example."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.text import Column, Style, format_table, format_value
from stages.contract import StageSpec

_BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
_MOST_LISTED = 10
"""Settings of one alternative that are listed where a stage is shown; what has more of them has a page of its own."""
_PLAIN_TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "bool", "object": "mapping", "array": "list"}
_INDENT = "   "
_LONGEST_LINE = 74


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One knob of a stage. `default` is None with `is_required`, else the value that is used when it is not given."""

    name: str
    type: str
    legal: str
    is_required: bool
    default: Any
    description: str
    reaches_key: bool

    @property
    def default_text(self) -> str:
        return "required" if self.is_required else format_value(self.default)


def stage_parameters(spec: StageSpec) -> list[Parameter]:
    """Every parameter of a stage, in the order in which its settings class declares them."""
    schema = spec.settings.model_json_schema(mode="serialization")  # how values look, not every way to write them
    definitions = schema.get("$defs", {})
    parameters = []
    for name, field in spec.settings.model_fields.items():
        content = schema["properties"][field.alias or name]
        kind, legal = _type_of(content, definitions)
        extra = field.json_schema_extra
        parameters.append(
            Parameter(
                name=name,
                type=kind,
                legal=legal,
                is_required=field.is_required(),
                default=None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
                description=" ".join((field.description or content.get("description", "")).split()),
                reaches_key=not (isinstance(extra, dict) and extra.get("operational")),
            )
        )
    return parameters


def stages_lines(specs: Iterable[StageSpec], *, style: Style, width: int | None) -> list[str]:
    """What `stages ls` prints."""
    columns = [Column("STAGE"), Column("SUMMARY")]
    rows = [[spec.name, f"{spec.summary}{' (experimental)' if spec.experimental else ''}"] for spec in specs]
    return format_table(columns, rows, style=style, width=width, last_lines=3)


def stage_lines(spec: StageSpec, *, style: Style, width: int) -> list[str]:
    """What `stages show` prints."""
    mark = " (experimental)" if spec.experimental else ""
    lines = [f"{style.paint(spec.name, 'bold')}  version {spec.version}{mark}", *_wrapped(spec.summary, _INDENT, width)]
    if spec.source:
        lines += _wrapped(f"source: {spec.source}", _INDENT, width)
    lines.append(style.paint("inputs", "bold"))
    for name, port in spec.inputs.items():
        how = ", ".join(
            word for word in (port.kind, "several" if port.many else "", "optional" if port.optional else "") if word
        )
        lines.append(f"{_INDENT}{name}: {how}")
    if not spec.inputs:
        lines.append(f"{_INDENT}none")
    lines += [style.paint("output", "bold"), f"{_INDENT}{spec.output}"]
    if spec.metrics:
        lines += [style.paint("metrics", "bold"), *_wrapped(", ".join(spec.metrics), _INDENT, width)]
    if spec.forecast_metrics:
        lines += _wrapped(f"known before it runs: {', '.join(spec.forecast_metrics)}", _INDENT, width)
    lines.append(style.paint("parameters", "bold"))
    parameters = stage_parameters(spec)
    name_width = max((len(parameter.name) for parameter in parameters), default=0)
    for parameter in parameters:
        facts = " ".join(part for part in (parameter.type, parameter.legal) if part)
        default = "required" if parameter.is_required else f"default {parameter.default_text}"
        facts_lines = _wrapped(f"{facts}; {default}", "", width - name_width - 5)
        padding = " " * (name_width + 5)
        name = style.paint(f"{parameter.name:<{name_width}}", "bold")
        lines.append(f"{_INDENT}{name}  {facts_lines[0]}")
        lines += [f"{padding}{line}" for line in facts_lines[1:]]
        note = "" if parameter.reaches_key else " (changes no key)"
        lines += _wrapped(f"{parameter.description}{note}", _INDENT * 2, width)
    if not spec.settings.model_fields:
        lines.append(f"{_INDENT}none")
    return [*lines, style.paint("example", "bold"), *(f"{_INDENT}{line}" for line in example_yaml(spec))]


def stage_document(spec: StageSpec) -> dict[str, Any]:
    """The same as data."""
    return {
        "stage": {
            "name": spec.name,
            "version": spec.version,
            "summary": spec.summary,
            "output": spec.output,
            "inputs": {name: vars(port) for name, port in spec.inputs.items()},
            "metrics": list(spec.metrics),
            "forecast_metrics": list(spec.forecast_metrics),
            "source": spec.source,
            "experimental": spec.experimental,
            "parameters": [vars(parameter) for parameter in stage_parameters(spec)],
            "example": "\n".join(example_yaml(spec)),
        }
    }


def example_yaml(spec: StageSpec) -> list[str]:
    """A node of a workflow file that uses the stage, with the small settings that its author gives as an example."""
    node = spec.name.partition(".")[0]
    lines = [f"{node}:", f"  stage: {spec.name}"]
    ports = {name: port for name, port in spec.inputs.items() if not port.optional} or dict(list(spec.inputs.items())[:1])
    if ports:
        written = ", ".join(f"{name}: {'[NODE, NODE]' if port.many else 'NODE'}" for name, port in ports.items())
        lines.append(f"  inputs: {{{written}}}")
    params = dict(spec.example) or {p.name: p.name.upper() for p in stage_parameters(spec) if p.is_required}
    if params:
        lines.append("  params:")
        for name, value in params.items():
            lines += _yaml_lines(name, value, "    ")
    return lines


def _yaml_lines(name: str, value: Any, indent: str) -> list[str]:
    """A setting in one line, or a mapping that is too long for one in several."""
    line = f"{indent}{name}: {_yaml_value(value)}"
    if len(line) <= _LONGEST_LINE or not isinstance(value, Mapping):
        return [line]
    return [f"{indent}{name}:", *(line for key, each in value.items() for line in _yaml_lines(key, each, f"{indent}  "))]


def _type_of(content: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[str, str]:
    """The type in a word or two, and which values are legal."""
    if "$ref" in content:
        return _type_of(definitions[content["$ref"].rpartition("/")[2]], definitions)
    if "enum" in content:
        return "one of", ", ".join(format_value(value) for value in content["enum"])
    if "const" in content:
        return "always", format_value(content["const"])
    choices = content.get("anyOf") or content.get("oneOf")
    if choices:
        return _type_of_choices(choices, definitions)
    if "allOf" in content:
        return _type_of(content["allOf"][0], definitions)
    kind = _PLAIN_TYPES.get(content.get("type", ""), "any")
    if kind == "list" and isinstance(content.get("items"), Mapping):
        kind = f"list of {_type_of(content['items'], definitions)[0]}"
    bounds = [f"{sign} {format_value(content[name])}" for name, sign in _BOUNDS if name in content]
    if "pattern" in content and not bounds:
        bounds = [f"like {content['pattern']}"]
    return kind, " and ".join(bounds)


def _type_of_choices(choices: Iterable[Mapping[str, Any]], definitions: Mapping[str, Any]) -> tuple[str, str]:
    kinds: dict[str, str] = {}
    for choice in choices:
        target = definitions[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        name = target.get("properties", {}).get("name", {}).get("const")
        if choice.get("type") == "null":
            kinds["none"] = ""
        elif name is not None:
            own = [key for key in target["properties"] if key != "name"]
            kinds[name] = f"({name} takes {', '.join(own)})" if 0 < len(own) <= _MOST_LISTED else ""
        else:
            kind, legal = _type_of(choice, definitions)
            kinds[kind] = legal
    return " or ".join(kinds), "; ".join(legal for legal in kinds.values() if legal)


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else value


def _yaml_value(value: Any) -> str:
    """Quoted where YAML readers of another version could take it for something else, such as 2:4."""
    if isinstance(value, str) and (not value or any(letter in value for letter in ":#[]{},&*!|>'\"%@`")):
        return f'"{value}"'
    return "null" if value is None else format_value(value)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width=max(40, width), initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
