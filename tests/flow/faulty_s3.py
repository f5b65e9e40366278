"""An HTTP proxy before a real S3 server that fails on purpose, by a seeded plan, and counts what it did.

Requests pass through byte for byte, `Host` included: SigV4 signs the `Host` that the client sent (the proxy's), and
SeaweedFS checks the signature against the `Host` that it receives, so signatures stay valid and are really checked.

    500, 503      an answer with S3's InternalError or SlowDown; the server never sees the request
    expired       the same with 403 ExpiredToken
    reset         the connection is reset before the server sees the request
    lost          the server does what was asked, then the connection is reset instead of an answer
    delay         the server does what was asked, and the answer waits `delay_s`
    truncated     the answer's head, half of its body, and the end of the connection
    stale         a listing as it was when the proxy first saw the same one asked for
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_ANSWERS = {
    "500": (500, "Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "Service Unavailable", "SlowDown", "Please reduce your request rate."),
    "expired": (403, "Forbidden", "ExpiredToken", "The provided token has expired."),
}
_RANDOM = re.compile(r"(?<=uploadId)=[^&]*|-[0-9a-f]{8}(?=\.(?:parquet|json))")  # parts of a target that no run repeats
KINDS = (*_ANSWERS, "reset", "lost", "delay", "truncated", "stale")


@dataclass(frozen=True)
class Rule:
    """Which requests fail, and how.

    Attributes:
        kind: One of KINDS.
        methods: Regular expression for the whole method.
        target: Regular expression searched in the unquoted path and query.
        skip: Matching requests that pass before the first one fails, counted for each method and target apart.
        times: How many fail after that, for each method and target apart; None: all.
        probability: Share of the requests so chosen that fail; drawn from the plan's seed, the target and its count.
    """

    kind: str
    methods: str = ".*"
    target: str = ""
    skip: int = 0
    times: int | None = 1
    probability: float = 1.0

    def matches(self, method: str, target: str) -> bool:
        return bool(re.fullmatch(self.methods, method) and re.search(self.target, target))


@dataclass
class FaultPlan:
    """Rules in order of precedence, and the same decisions for the same requests whatever the threads do."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0
    delay_s: float = 3.0
    seen: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    log: list[tuple[str, str, str]] = field(default_factory=list)

    def decide(self, method: str, target: str) -> str | None:
        """The kind of fault that this request meets, if any."""
        for index, rule in enumerate(self.rules):
            if not rule.matches(method, target):
                continue
            number = self.seen[index, method, target]
            self.seen[index, method, target] += 1
            if number < rule.skip or (rule.times is not None and number >= rule.skip + rule.times):
                continue
            if random.Random(f"{self.seed}/{index}/{method}/{target}/{number}").random() < rule.probability:
                return rule.kind
        return None

    def count(self, kind: str, method: str, target: str) -> None:
        self.injected[kind] += 1
        self.log.append((kind, method, target))


@dataclass(frozen=True)
class _Message:
    """A request or an answer, as it came over the wire."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)

    @property
    def status(self) -> int:
        return int(self.first_line[1])


class FaultyS3:
    """The proxy; `plan` may be replaced between runs."""

    def __init__(self, upstream_url: str) -> None:
        address = urlsplit(upstream_url)
        self._upstream = (address.hostname, address.port)
        self._listings: dict[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.plan = FaultPlan()
        self.endpoint_url = ""

    def start(self) -> None:
        """Listen on a free loopback port."""
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Drop every connection and end the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fail(self, *rules: Rule, seed: int = 0, delay_s: float = 3.0) -> FaultPlan:
        """Start a new plan; without rules everything passes."""
        self.plan = FaultPlan(rules, seed, delay_s)
        return self.plan

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await _read_message(reader, asking=writer):
                if not await self._answer(request, writer):
                    break
        writer.close()

    async def _answer(self, request: _Message, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the connection."""
        method, target, _ = request.first_line
        plan, target = self.plan, _RANDOM.sub("", unquote(target))
        kind = plan.decide(method, target)
        if kind in _ANSWERS or kind == "reset":
            plan.count(kind, method, target)
            return await _send(writer, _error_answer(kind, method)) if kind in _ANSWERS else _reset(writer)
        answer = await self._forward(request, method)
        stale = self._older_listing(method, target, answer)
        if kind in ("lost", "delay"):
            plan.count(kind, method, target)
        if kind == "lost":
            return _reset(writer)
        if kind == "delay":
            await asyncio.sleep(plan.delay_s)
        if kind == "truncated" and len(answer.body) > 1 and answer.status < 300:
            plan.count(kind, method, target)
            await _send(writer, answer.head + answer.body[: len(answer.body) // 2])
            return False
        if kind == "stale" and stale is not None:
            plan.count(kind, method, target)
            return await _send(writer, stale)
        return await _send(writer, answer.head + answer.body)

    def _older_listing(self, method: str, target: str, answer: _Message) -> bytes | None:
        """Remember a listing's first answer; return it where it differs from this one."""
        if method != "GET" or "list-type=2" not in target or answer.status != 200:
            return None
        first = self._listings.setdefault(target, answer.head + answer.body)
        return None if first.endswith(answer.body) else first

    async def _forward(self, request: _Message, method: str) -> _Message:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            while True:
                answer = await _read_message(reader, bodiless=method == "HEAD")
                if answer is None:
                    raise ConnectionResetError
                if answer.status >= 200:  # 100 Continue: the body is on its way already
                    return answer
        finally:
            writer.close()


@contextlib.contextmanager
def faulty_s3(upstream_url: str) -> Iterator[FaultyS3]:
    """A proxy for the length of a block."""
    proxy = FaultyS3(upstream_url)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def _read_message(
    reader: asyncio.StreamReader, bodiless: bool = False, asking: asyncio.StreamWriter | None = None
) -> _Message | None:
    """The next message, or None where the connection ended between two; `asking` may wait for 100 Continue."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    names = {name.strip().lower(): value.strip() for name, _, value in map(_split_header, head.split(b"\r\n")[1:])}
    if bodiless or head.startswith((b"HTTP/1.1 1", b"HTTP/1.1 204", b"HTTP/1.1 304")):
        return _Message(head, b"")
    if asking is not None and b"expect" in names:
        await _send(asking, b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"chunked" in names.get(b"transfer-encoding", b"").lower():
        return _Message(head, await _read_chunks(reader))
    return _Message(head, await reader.readexactly(int(names.get(b"content-length", b"0"))))


def _split_header(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body with its framing and trailers, as it is."""
    parts = []
    while True:
        parts.append(await reader.readuntil(b"\r\n"))
        size = int(parts[-1].split(b";")[0], 16)
        if size == 0:
            break
        parts.append(await reader.readexactly(size + 2))
    while parts[-1] != b"\r\n":
        parts.append(await reader.readuntil(b"\r\n"))
    return b"".join(parts)


async def _send(writer: asyncio.StreamWriter, content: bytes) -> bool:
    writer.write(content)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """End a connection with RST: no lingering, nothing flushed."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _error_answer(kind: str, method: str) -> bytes:
    status, phrase, code, message = _ANSWERS[kind]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head if method == "HEAD" else head + body).encode()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
