"""Serves the pages of a store's runs: the list, each run's report, and what a run does right now as a stream of events.

Reads the store only, changes nothing, keeps nothing, and holds no account: it answers GET requests that name this machine as
their host, on loopback unless told otherwise. Reading may block, so it happens in threads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from orchestrator.errors import OrchestratorError, UsageError
from orchestrator.report.page.document import report_document
from orchestrator.report.page.html import html_page
from orchestrator.report.page.sources import read_sources
from orchestrator.report.progress import ProgressReader
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status
from orchestrator.report.status_table import counts_text, run_word
from orchestrator.report.text import format_seconds, format_time
from orchestrator.store.base import Store
from orchestrator.store.ledger import Ledger, now_text

LOOK_EVERY_S = 1.0
MAX_RUNS = 200
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STORE = web.AppKey("store", Store)
_PROGRAM = web.AppKey("program", str)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(store: Store, *, hosts: tuple[str, ...], program: str = "orchestrator") -> web.Application:
    """The application. `program` is how commands on its pages begin.

    `hosts` are the names that a request may call this machine by: else a page elsewhere, which a browser was led to, could
    read the answers under a name of its own.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host.rpartition(":")[0].strip("[]") not in hosts and request.host not in hosts:
            raise web.HTTPForbidden(text="this page is served to this machine alone")
        try:
            answer = await handler(request)
        except UsageError as error:
            answer = web.Response(status=404, text=f"{error.message}\n")
        except OrchestratorError as error:
            answer = web.Response(status=503, text=f"{error.message}\n")
        if not answer.prepared:
            answer.headers.update(SAFE_HEADERS)
        return answer

    app = web.Application(middlewares=[guarded])
    app[_STORE], app[_PROGRAM] = store, program
    app.router.add_get("/", _runs_page)
    app.router.add_get("/run/{run}", _run_page)
    app.router.add_get("/run/{run}/report.json", _run_document)
    app.router.add_get("/run/{run}/stream", _run_stream)
    return app


async def _runs_page(request: web.Request) -> web.Response:
    store = request.app[_STORE]
    page = await asyncio.to_thread(lambda: _template().render(runs=list(_run_rows(store)), store=store.url, max_runs=MAX_RUNS))
    return web.Response(text=page, content_type="text/html")


def _run_rows(store: Store) -> Iterator[dict[str, Any]]:
    for request in Ledger(store).runs()[:MAX_RUNS]:
        status = read_run_status(store, request.id)
        yield {
            "id": status.id, "workflow": status.workflow, "word": run_word(status.state), "counts": counts_text(status),
            "created": format_time(status.created), "took": format_seconds(status.seconds) if status.seconds else "",
            "dashboard": status.dashboard if status.state not in FINAL_STATES else "",
        }  # fmt: skip


async def _run_page(request: web.Request) -> web.Response:
    store = request.app[_STORE]

    def render() -> str:
        sources = read_sources(store, Ledger(store).resolve(request.match_info["run"]), now=now_text())
        return html_page(report_document(sources), program=request.app[_PROGRAM], is_live=sources.is_live)

    return web.Response(text=await asyncio.to_thread(render), content_type="text/html")


async def _run_document(request: web.Request) -> web.Response:
    store = request.app[_STORE]
    run = request.match_info["run"]
    document = await asyncio.to_thread(lambda: report_document(read_sources(store, Ledger(store).resolve(run), now=now_text())))
    return web.json_response(document)


async def _run_stream(request: web.Request) -> web.StreamResponse:
    """Server-sent events: what runs now, whenever it has changed; ends with the run."""
    store = request.app[_STORE]
    run = await asyncio.to_thread(Ledger(store).resolve, request.match_info["run"])
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", **SAFE_HEADERS})
    await answer.prepare(request)
    progress, told = ProgressReader(Ledger(store), run), ""
    while True:
        now = await asyncio.to_thread(_present, store, run, progress)
        text = json.dumps(now)
        if text != told:
            told = text
            await answer.write(f"data: {text}\n\n".encode())
        if now["state"] in FINAL_STATES:
            return answer
        await asyncio.sleep(LOOK_EVERY_S)


def _present(store: Store, run: str, progress: ProgressReader) -> dict[str, Any]:
    status: RunStatus = read_run_status(store, run)
    found = progress.read(status)
    running = [node for node in status.nodes.values() if node.state == "running"]
    return {
        "state": status.state,
        "counts": counts_text(status),
        "num_ended": status.count("done", "failed", "skipped", "blocked", "cancelled"),
        "dashboard": status.dashboard,
        "running": [
            {
                "node": node.label,
                "fraction": found[node.label].fraction if node.label in found else 0.0,
                "metric": found[node.label].metric if node.label in found else "",
                "left": _left(found[node.label].seconds_left) if node.label in found else "",
            }
            for node in running
        ],
    }


def _left(seconds: float | None) -> str:
    return f"{format_seconds(seconds)} left" if seconds is not None else ""


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("runs.html.j2")
