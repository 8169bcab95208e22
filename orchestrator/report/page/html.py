"""The report as one HTML page that asks nothing of the network: template, our scripts and styles, a plotting library, data.

Everything from outside goes through the template's escaping or into JSON that no tag can end. A content security policy names
the page's own scripts by their digests, so that nothing else runs in it, whatever a label holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from orchestrator.report.page.compact import page_data
from orchestrator.report.page.graph_svg import graph_shapes
from orchestrator.report.page.truth import truth_rows
from orchestrator.report.text import (
    format_bytes,
    format_figure,
    format_seconds,
    format_time,
    format_value,
    plural,
    printable,
)

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("echarts.min.js", "common.js", "plots.js", "pictures.js", "trials.js", "page.js")


def html_page(document: Mapping[str, Any], *, program: str = "orchestrator", is_live: bool = False) -> str:
    """The page of a report's document. `program` is how commands in it begin, where the store is not the default.

    `is_live`: it is served by `report.ui` while its run goes on, and follows it; only then may it make requests.
    """
    scripts = [_asset(name) for name in (*SCRIPTS, *(["live.js"] if is_live else []))]
    policy = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)

    def command(text: str) -> str:
        return text.replace("orchestrator ", f"{program} ", 1)

    return _template().render(
        report=document,
        graph=graph_shapes(document["graph"]),
        truth=truth_rows(document),
        data=embedded_json(page_data(document)),
        policy=policy,
        is_live=is_live,
        scripts=scripts,
        style=_asset("page.css"),
        command=command,
    )


def embedded_json(value: Any) -> str:
    """JSON that may stand inside of a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "seconds": format_seconds,
        "bytes": format_bytes,
        "figure": format_figure,
        "time": format_time,
        "value": format_value,
        "line": printable,
        "percent": lambda value: f"{value:.0%}",
    }
    environment.globals["plural"] = plural
    return environment.get_template("report.html.j2")
