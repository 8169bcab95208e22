"""`ui`: the runs of the store in a browser, read-only, on this machine."""

from __future__ import annotations

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@command("ui", example="orchestrator ui --port 8080")
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=8266, show_default=True, help="0: any free one.")
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Others than loopback show the store to all."
)
@pass_shell
def ui(shell: Shell, port: int, host: str) -> int:
    """Show runs and reports in a browser, as they go on; reads the store only.

    Nothing needs to be running. Ctrl-C ends it.
    """
    import asyncio

    from aiohttp import web

    from orchestrator.report.ui.server import make_app

    shell.stay()
    app = make_app(shell.workspace.store, hosts=LOOPBACK if host in LOOPBACK else (*LOOPBACK, host), program=shell.program)
    if host not in LOOPBACK:
        shell.insist(f"caution: {host} shows this store to everybody who reaches it; there is no password")

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"cannot serve on {host}:{port}: {error.strerror}", next_step="orchestrator ui --port 0"
            ) from error
        address = f"http://{host}:{runner.addresses[0][1]}/"
        if shell.as_json:
            shell.json_line({"type": "serving", "url": address})
        else:
            shell.say(f"{shell.place()} at {address}   Ctrl-C ends it")
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        shell.say("ended")
    return 0
