"""A proxy before any S3 server that answers wrongly, late, half or not at all, as a seeded plan or a rule of the test says.

It speaks as much HTTP/1.1 as boto3 does, keeps its clients' connections, and asks the server anew for each request. Faults:

    slow_down       503 SlowDown, and the server never hears of it         error_before   500 likewise
    reset_before    the connection breaks before the request is whole      hold           the request arrives later
    error_after     the server does it, the client is told 500             repeat         the server gets it twice
    reset_after     the server does it, the connection breaks              cut            half the answer, then it breaks
    slow_body       the answer comes in small pieces                       stale_list     an older answer to this listing
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BEFORE = ("slow_down", "error_before", "reset_before", "hold")
AFTER = ("error_after", "reset_after", "repeat")
READS = ("cut", "slow_body", "stale_list")
KINDS = (*BEFORE, *AFTER, *READS)
_HOLD_S, _PIECE_PAUSE_S, _NUM_PIECES = 0.05, 0.005, 10
_LINE_LIMIT = 2**20
_KEPT_LISTINGS = 4

Rule = Callable[["Request"], str | None]


@dataclass(frozen=True)
class Request:
    """A request as a rule sees it; `number` counts from 1."""

    number: int
    method: str
    target: str
    head: bytes

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=" in self.target


@dataclass
class Answer:
    """A whole answer of the server; `length` is what its head announces, also where there is no body (HEAD)."""

    head: bytes
    body: bytes


@dataclass
class SeededPlan:
    """A share `rate` of all requests meets with a fault of one of the `kinds`."""

    seed: int
    rate: float
    kinds: Sequence[str] = KINDS
    generator: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)

    def __call__(self, request: Request) -> str | None:
        if self.generator.random() >= self.rate:
            return None
        kinds = [kind for kind in self.kinds if _fits(kind, request)]
        return self.generator.choice(kinds) if kinds else None


def _fits(kind: str, request: Request) -> bool:
    if kind == "stale_list":
        return request.is_listing
    if kind in ("cut", "slow_body"):
        return request.method == "GET"
    return kind != "repeat" or request.method in ("PUT", "DELETE")


class Proxy:
    """Listens on a port of this machine, in a thread of its own. `rule` may be changed at any time; None: no fault."""

    def __init__(self, endpoint: str, rule: Rule | None = None) -> None:
        found = urlsplit(endpoint)
        self._server = (found.hostname, found.port)
        self.rule = rule
        self.injected: Counter[str] = Counter()
        self.num_requests = 0
        self._listings: dict[str, list[Answer]] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="s3-proxy", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LINE_LIMIT))
        self.endpoint = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        listening.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        with suppress(Exception):
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self.num_requests += 1
        seen = Request(self.num_requests, method, target, head)
        kind = self.rule(seen) if self.rule is not None else None
        if kind is not None and (kind != "stale_list" or self._listings.get(target)):
            self.injected[kind] += 1
        if kind == "reset_before":
            writer.transport.abort()
            return False
        if header(head, b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(header(head, b"content-length") or 0))
        if kind in ("slow_down", "error_before"):
            await self._send(writer, _failure("SlowDown" if kind == "slow_down" else "InternalError", method))
            return True
        if kind == "hold":
            await asyncio.sleep(_HOLD_S)
        if kind == "stale_list" and self._listings.get(target):
            await self._send(writer, self._listings[target][0])
            return True
        answer = await self._ask(seen, body)
        if kind == "repeat":
            answer = await self._ask(seen, body)
        if kind == "reset_after":
            writer.transport.abort()
            return False
        if kind == "error_after":
            answer = _failure("InternalError", method)
        if kind == "cut":
            writer.write(answer.head + answer.body[: len(answer.body) // 2])
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()
            return False
        await self._send(writer, answer, pieces=_NUM_PIECES if kind == "slow_body" else 1)
        return True

    async def _ask(self, request: Request, body: bytes) -> Answer:
        reader, writer = await asyncio.open_connection(*self._server, limit=_LINE_LIMIT)
        try:
            lines = [line for line in request.head.split(b"\r\n") if not line.lower().startswith((b"expect:", b"connection:"))]
            writer.write(b"\r\n".join([*lines[:1], b"Connection: close", *lines[1:]]) + body)
            await writer.drain()
            answer = await _read_answer(reader, request.method)
        finally:
            writer.close()
        if request.is_listing and answer.head.split(b" ", 2)[1] == b"200":
            kept = self._listings.setdefault(request.target, [])
            kept.append(answer)
            del kept[:-_KEPT_LISTINGS]
        return answer

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer, *, pieces: int = 1) -> None:
        writer.write(answer.head)
        step = -(-len(answer.body) // pieces) or 1
        for begin in range(0, len(answer.body), step):
            writer.write(answer.body[begin : begin + step])
            await writer.drain()
            if pieces > 1:
                await asyncio.sleep(_PIECE_PAUSE_S)
        await writer.drain()


async def _read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    while head.split(b" ", 2)[1] == b"100":
        head = await reader.readuntil(b"\r\n\r\n")
    if method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304"):
        body = b""
    elif b"chunked" in header(head, b"transfer-encoding").lower():
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
    elif (length := header(head, b"content-length")) != b"":
        body = await reader.readexactly(int(length))
    else:
        body = await reader.read()
    dropped = (b"connection:", b"transfer-encoding:") + (() if method == "HEAD" else (b"content-length:",))
    lines = [line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(dropped)]
    if method != "HEAD" and head.split(b" ", 2)[1] != b"204":
        lines.append(b"Content-Length: %d" % len(body))
    return Answer(b"\r\n".join(lines) + b"\r\n\r\n", body)


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, or nothing."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def _failure(code: str, method: str) -> Answer:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected by the proxy</Message></Error>".encode()
    body = b"" if method == "HEAD" else text
    status = b"503 Slow Down" if code == "SlowDown" else b"500 Internal Server Error"
    head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return Answer(head, body)


@contextmanager
def proxied(endpoint: str, rule: Rule | None = None) -> Iterator[Proxy]:
    """A proxy before the server at `endpoint`."""
    proxy = Proxy(endpoint, rule)
    try:
        yield proxy
    finally:
        proxy.close()
