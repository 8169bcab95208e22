"""The catalog as a page: `python -m orchestrator.report.stage_docs > docs/stages.md`. A test holds the page against it."""

from __future__ import annotations

import sys

from orchestrator.report.stage_text import example_yaml, stage_parameters
from stages.catalog import all_stages
from stages.contract import StageSpec


def stages_page() -> str:
    """The whole page, in Markdown."""
    stages = all_stages().values()
    head = [
        "# Stages",
        "",
        "Written from the catalog by `python -m orchestrator.report.stage_docs > docs/stages.md`;",
        "`orchestrator stages show NAME` tells the same.",
        "",
        "| stage | takes | makes | what it does |",
        "|---|---|---|---|",
        *(f"| [`{spec.name}`](#{_anchor(spec)}) | {_ports(spec)} | {spec.output} | {spec.summary} |" for spec in stages),
        "",
    ]
    return "\n".join([*head, *(line for spec in stages for line in _section(spec))]).rstrip() + "\n"


def _section(spec: StageSpec) -> list[str]:
    rows = [
        f"| `{p.name}` | {_cell(' '.join(part for part in (p.type, p.legal) if part))} | {_cell(p.default_text)} "
        f"| {_cell(p.description)}{'' if p.reaches_key else ' (changes no key)'} |"
        for p in stage_parameters(spec)
    ]
    return [
        f"## {spec.name}",
        "",
        f"{spec.summary}. Source: {spec.source}. Metrics: {', '.join(spec.metrics)}.{_forecast(spec)}",
        "",
        "```yaml",
        *example_yaml(spec),
        "```",
        "",
        "| setting | values | default | meaning |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _forecast(spec: StageSpec) -> str:
    return f" Known before it runs: {', '.join(spec.forecast_metrics)}." if spec.forecast_metrics else ""


def _ports(spec: StageSpec) -> str:
    return ", ".join(f"{name}{'*' if port.many else '?' if port.optional else ''}" for name, port in spec.inputs.items()) or "-"


def _anchor(spec: StageSpec) -> str:
    return spec.name.replace(".", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(stages_page())
