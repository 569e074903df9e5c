"""Clients that do everything at once, and look at every line that comes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from random import Random

PATIENCE = 120
"""Seconds after which a line that has not come is lost."""
WAYS = {
    "read": 40,
    "whole": 10,
    "progress": 10,
    "acknowledged": 5,
    "abort": 10,
    "cancel": 10,
    "deadline": 3,
    "half-close": 6,
    "disconnect": 6,
}
"""What is done with a request, and how often among a hundred."""
EXPECTED = {-32800, -32006, -32002}
"""Cancelled, backend lost, deadline passed: the errors that have their reason in what is done here."""


class Violation(Exception):
    """A line that must not be, or one that is missing."""


class Report:
    """What has happened.

    Attributes:
        done: How many requests were made in each way.
        endings: How many last lines there were of each kind.
        violations: What must not be.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.violations: list[str] = []

    @property
    def requests(self) -> int:
        """How many were made."""
        return self.done.total()


class Client:
    """One of many, with a mark that is in each of its prompts and in nobody else's.

    Args:
        path: Of the socket.
        mark: Its own.
        random: Decides what it does.
        report: Of all.
    """

    def __init__(self, path: str, mark: str, random: Random, report: Report) -> None:
        self._path = path
        self._mark = mark
        self._random = random
        self._report = report
        self._count = 0
        self._open: dict[int, Expectation] = {}
        self._ended: set[int] = set()

    async def live(self, requests: int, ways: Sequence[str] = tuple(WAYS)) -> None:
        """Make so many requests, one after the other, in ways of all kinds."""
        await self._connect()
        weights = [WAYS[way] for way in ways]
        for _ in range(requests):
            [way] = self._random.choices(ways, weights)
            self._report.done[way] += 1
            try:
                await asyncio.wait_for(self._request(way), PATIENCE)
            except (Violation, asyncio.TimeoutError, OSError, EOFError) as error:
                self._report.violations.append(f"{self._mark}, {way}, request {self._count}: {error!r}")
                self._writer.close()
                await self._connect()
        await self._settle()
        self._writer.close()

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=2**20)
        self._open.clear()
        self._ended.clear()

    async def _request(self, way: str) -> None:
        id = self._ask(way)
        if way in ("abort", "cancel", "disconnect"):
            await self._readSome(id)
        await self._disturb(way, id)
        while id in self._open:
            await self._readOne()
        if way == "half-close":
            if rest := await self._reader.read():
                raise Violation(f"after the last line came {rest[:200]!r}")
            self._writer.close()
            await self._connect()

    def _ask(self, way: str) -> int:
        """Send a request. Returns its id."""
        self._count += 1
        id = self._count
        words = [f"{self._mark}.{id}.{n}" for n in range(self._random.randint(1, 12))]
        self._open[id] = Expectation(words)
        stream = way if way in ("whole", "progress") else "lines"
        options: dict[str, object] = {"stream": stream}
        if way == "deadline":
            options["deadline"] = self._random.uniform(0.001, 0.2)
        method = "rkllm.run_async" if way == "acknowledged" else "rkllm.run"
        self._send(id, method, [{"prompt_input": " ".join(words)}, None, options])
        return id

    async def _readSome(self, id: int) -> None:
        for _ in range(self._random.choice([0, 0, 1, 2, 5])):
            if id in self._open:
                await self._readOne()

    async def _disturb(self, way: str, id: int) -> None:
        """Do what comes between a request and its last line; nothing in the ways that only read."""
        if way == "abort":
            self._send(f"abort {id}", "rkllm.abort", [])
        elif way == "cancel":
            self._send(None, "$/cancelRequest", {"id": id})
        elif way == "half-close":
            self._writer.write_eof()
        elif way == "disconnect":
            self._writer.transport.abort()
            await self._connect()

    async def _settle(self) -> None:
        """What is asked last is answered last: nothing else may come before its answer."""
        self._send("last", "rkllm.is_running", [])
        while await self._readOne() != "last":
            pass

    def _send(self, id: object, method: str, params: object) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if id is None else {"id": id})
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _readOne(self) -> object:
        """Read a line and look at it. Returns the id that it belongs to."""
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise Violation(f"the connection ended with {line!r}, these had no last line: {sorted(self._open)}")
        message = json.loads(line)
        if message.get("method") == "$/progress":
            id, isLast, result = message["params"]["token"], False, message["params"]["value"]
        else:
            id, isLast, result = message["id"], "error" in message, message.get("result")
        if isinstance(id, int):
            self._look(id, message, result, isLast)
        return id

    def _look(self, id: int, message: dict[str, object], result: object, isLast: bool) -> None:
        if id in self._ended:
            raise Violation(f"after the last line came {message}")
        if id not in self._open:
            raise Violation(f"nobody has asked for {message}")
        expectation = self._open[id]
        isProgress = "method" in message
        ending = expectation.error(message["error"]) if isLast else expectation.result(result, isProgress)
        if ending is not None:
            self._report.endings[ending] += 1
            del self._open[id]
            self._ended.add(id)


class Expectation:
    """What may come of one request: its own words, in order, none twice.

    Args:
        words: Of the prompt.
    """

    def __init__(self, words: list[str]) -> None:
        self._text = " ".join(words)
        self._said = ""

    def error(self, error: object) -> str:
        """An error instead of a result. Returns what kind of ending it is."""
        assert isinstance(error, dict)
        if error["code"] not in EXPECTED:
            raise Violation(f"unexpected {error}")
        return f"error {error['code']}"

    def result(self, result: object, isProgress: bool) -> str | None:
        """A result. Returns what kind of ending it is, None if it is none."""
        assert isinstance(result, dict)
        state = result.get("_callback_state")
        if state is None:
            if result.get("message") != "run accepted":
                raise Violation(f"unexpected {result}")
            return None
        if state in (2, 3) and not isProgress and result["text"] is not None:
            self._said = result["text"]  # of a whole answer, and of the response after progress
        elif state == 0:
            self._said += result["text"]
        self._check(result)
        if isProgress or state not in (2, 3):
            return None
        return self._ending(result, state)

    def _check(self, result: dict[str, object]) -> None:
        if not self._text.startswith(self._said):
            raise Violation(f"cross-talk: {self._text!r} was answered by {self._said!r}")

    def _ending(self, result: dict[str, object], state: int) -> str:
        if state == 3:
            error = result["error"]
            assert isinstance(error, dict)
            return "state 3, " + self.error(error)
        reason = result.get("finish_reason")
        if reason == "stop" and self._said != self._text:
            raise Violation(f"words are missing: {self._text!r} was answered by {self._said!r}")
        if reason not in ("stop", "abort"):
            raise Violation(f"unexpected {result}")
        return f"finish, {reason}"
