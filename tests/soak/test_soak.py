"""The short form of the soak, and that it would see what it looks for."""

import asyncio
from random import Random

import pytest

from tests.soak.__main__ import options, soak
from tests.soak.clients import PATIENCE, Client, Expectation, Report, Violation


def test_short_soak():
    """W-LAST, W-ORDER, W-HISTORY: 64 clients at once, and the backend dies under them."""
    given = options(["--requests", "400", "--clients", "64", "--crashes", "5", "--seed", "1"])
    lines, violations = asyncio.run(asyncio.wait_for(soak(given), 2 * PATIENCE))
    assert violations == [], lines
    assert lines[0].startswith("requests        400 by 64 clients")


def answered(*messages, words="a b"):
    """What a client makes of messages to its request 1."""
    report = Report()
    client = Client("", "mark", Random(0), report)
    client._open[1] = Expectation(words.split())
    for message in messages:
        result = message.get("result")
        client._look(message.get("id", 1), message, result, "error" in message)
    return dict(report.endings)


def line(text, state=0, **more):
    return {"result": {"text": text, "_callback_state": state, **more}}


FINISH = line(None, 2, finish_reason="stop")
LOST = {"code": -32006}


def test_what_is_right():
    assert answered(line("a"), line(" b"), FINISH) == {"finish, stop": 1}
    assert answered(line("a"), line(None, 2, finish_reason="abort")) == {"finish, abort": 1}
    assert answered(line("a b", 2, finish_reason="stop")) == {"finish, stop": 1}
    assert answered({"error": LOST}) == {"error -32006": 1}
    assert answered(line("a"), line(None, 3, error=LOST)) == {"state 3, error -32006": 1}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([line("a"), line(" c")], "cross-talk"),
        ([line("a"), line("a")], "cross-talk"),
        ([line("b")], "cross-talk"),
        ([line("a"), FINISH], "words are missing"),
        ([line("a"), line(" b"), FINISH, FINISH], "after the last line"),
        ([{"error": LOST}, line("a")], "after the last line"),
        ([{"error": LOST}, {"error": LOST}], "after the last line"),
        ([{"id": 2, **line("a")}], "nobody has asked"),
        ([{"error": {"code": -32603}}], "unexpected"),
        ([{"error": {"code": -32000}}], "unexpected"),
        ([line(None, 3, error={"code": -32603})], "unexpected"),
        ([line(None, 2, finish_reason="length")], "unexpected"),
        ([{"result": {"success": True, "message": "something else"}}], "unexpected"),
    ],
)
def test_what_is_wrong(messages, said):
    with pytest.raises(Violation, match=said):
        answered(*messages)


def test_last_line_that_is_lost(tmp_path):
    """A server that closes without one."""

    async def main():
        async def close(reader, writer):
            await reader.readline()
            writer.close()

        async with await asyncio.start_unix_server(close, tmp_path / "s"):
            report = Report()
            client = Client(str(tmp_path / "s"), "mark", Random(0), report)
            await client._connect()
            with pytest.raises(Violation, match="had no last line"):
                await client._request("read")
            client._writer.close()

    asyncio.run(main())
