"""``rkllm chat``: turn by turn."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cli.inmemory import ACKNOWLEDGED, Cli, connected
from tests.spoken_server import SpokenServer, finish, token


def chatting(*lines: object, options: Sequence[str] = (), isTty: bool = False) -> tuple[Cli, SpokenServer]:
    """A chat in which these lines are typed; the reactor has come round for the first."""
    cli, server = connected("chat", *options, lines=list(lines), isTty=isTty)
    cli.turn()
    return cli, server


def asked(server: SpokenServer) -> tuple[object, str, object]:
    request = server.request()
    assert request["method"] == "rkllm.run"
    return request["id"], request["params"][1]["prompt_input"], request["params"][2].get("keep_history")


def test_chatGoesOnAfterEachAnswer() -> None:
    cli, server = connected("chat", lines=["one", "", "  two ", EOFError()], isTty=True)
    assert cli.prompts == []  # not before the reactor has come round
    cli.turn()
    id, prompt, keepsHistory = asked(server)
    assert (prompt, keepsHistory) == ("one", 1)
    assert len(cli.prompts) == 1
    server.answer(id, token("1"), finish())
    assert len(cli.prompts) == 1
    cli.turn()  # to the empty line
    cli.turn()
    id, prompt, keepsHistory = asked(server)
    assert (prompt, keepsHistory) == ("two", 1)
    server.answer(id, token("2"), finish())
    cli.turn()
    assert (cli.out, cli.err, cli.status) == ("1\n2\n\n", "", 0)
    assert cli.prompts[0].replace("\x01\x1b[1m\x02", "").replace("\x01\x1b[0m\x02", "") == "> "


def test_chatWithoutATerminalHasNoPrompt() -> None:
    cli, _ = chatting()
    assert (cli.prompts, cli.out, cli.status) == ([""], "", 0)


@pytest.mark.parametrize("word", ["/exit", "/quit", " /exit "])
def test_chatCommands(word: str) -> None:
    cli, server = connected("chat", lines=["/help", "/what", word, "more"])
    for _ in range(3):
        cli.turn()
    assert "/exit" in cli.err
    assert "there is no /what" in cli.err
    assert (cli.status, server.received()) == (0, [])


def clearing(server: SpokenServer) -> object:
    request = server.request()
    assert (request["method"], request["params"]) == ("rkllm.clear_kv_cache", [None, True, None, None])
    return request["id"]


def test_chatClears() -> None:
    cli, server = chatting("/clear", "one")
    id = clearing(server)
    assert cli.err == ""  # not before it is done
    server.answer(id, ACKNOWLEDGED)
    assert cli.err == "what was said is forgotten\n"
    cli.turn()
    id, prompt, keepsHistory = asked(server)
    assert (prompt, keepsHistory) == ("one", 1)
    server.answer(id, token("1"), finish())
    cli.turn()
    assert (cli.out, cli.status) == ("1\n", 0)


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (-32000, "model not initialized", "nothing to forget: no model is loaded\n"),
        (
            -32008,
            "not supported: this needs clear_kv_cache",
            "rkllm: not supported: this needs clear_kv_cache (-32008)\n",
        ),
    ],
)
def test_chatThatCannotClear(code: int, message: str, said: str) -> None:
    cli, server = chatting("/clear", "one")
    server.refuse(clearing(server), code, message)
    assert cli.err == said
    cli.turn()
    assert asked(server)[1] == "one"
    cli.done.cancel()


def test_chatInterruptWhileClearing() -> None:
    """The daemon may be busy with another's answer."""
    cli, server = chatting("/clear", "one")
    id = clearing(server)
    cli.interrupt()
    cancelled, run = server.received()
    assert (cancelled["method"], cancelled["params"]) == ("$/cancelRequest", {"id": id})
    assert cli.err == "interrupted, nothing was forgotten\n"
    assert run["params"][1]["prompt_input"] == "one"
    cli.done.cancel()


def test_chatEndsWithItsConnectionWhileClearing() -> None:
    cli, server = chatting("/clear", "one")
    clearing(server)
    server.hangUp()
    assert (cli.status, server.received()) == (1, [])
    assert "connection to the server lost" in cli.err


def test_chatWithABackendThatKeepsNoHistory() -> None:
    cli, server = chatting("one", "two")
    id, *_ = asked(server)
    server.refuse(id, -32008, "not supported: this needs keep_history", needs="keep_history")
    id, prompt, keepsHistory = asked(server)
    assert (prompt, keepsHistory) == ("one", None)
    server.answer(id, token("1"), finish())
    cli.turn()
    id, prompt, keepsHistory = asked(server)
    assert (prompt, keepsHistory) == ("two", None)
    server.answer(id, token("2"), finish())
    cli.turn()
    assert (cli.out, cli.status) == ("1\n2\n", 0)
    assert cli.err.count("keeps no history") == 1
    assert cli.err.count("\n") == 1


def test_chatWithOptionsThatTheBackendCannotTake() -> None:
    """No turn can succeed, so there is none after the first."""
    cli, server = chatting("one", "two", options=["--top-k", "1"])
    server.refuse(asked(server)[0], -32008, "not supported: this needs sampling_params", needs="sampling_params")
    assert "does not take --top-k for a single run" in cli.err
    assert (cli.status, server.received()) == (2, [])


def test_chatThatNeedsSomethingElseThatIsMissing() -> None:
    cli, server = chatting("one")
    server.refuse(asked(server)[0], -32008, "not supported: this needs prompt_input", needs="prompt_input")
    assert cli.err == "rkllm: not supported: this needs prompt_input (-32008)\n"
    assert server.received() == []


def test_chatSaysThatAnotherEndedTheAnswer() -> None:
    cli, server = chatting("one", "two")
    server.answer(asked(server)[0], token("1"), finish("abort"))
    assert cli.err.startswith("the answer is not complete")
    cli.turn()
    assert asked(server)[1] == "two"
    cli.done.cancel()


def test_chatGoesOnAfterAnError() -> None:
    cli, server = chatting("long", "short")
    server.refuse(asked(server)[0], -32010, "prompt too long: 9 tokens", tokens=9, limit=8)
    cli.turn()
    server.answer(asked(server)[0], token("ok"), finish())
    cli.turn()
    assert (cli.out, cli.err, cli.status) == ("ok\n", "rkllm: prompt too long: 9 tokens (-32010)\n", 0)


def test_chatEndsWithItsConnection() -> None:
    cli, server = chatting("one", "two")
    server.hangUp()
    assert (cli.status, len(cli.prompts)) == (1, 1)
    assert "connection to the server lost" in cli.err


def test_chatWithoutAModel() -> None:
    cli, server = chatting("one")
    server.refuse(asked(server)[0], -32000, "model not initialized")
    assert cli.status == 1
    assert "rkllm chat --model smollm2" in cli.err


def test_chatSaysThatHistoryWasLost() -> None:
    """W-HISTORY, and the loss of a backend."""
    cli, server = chatting("one", "two")
    server.answer(asked(server)[0], token("1"), finish(history_lost=True))
    assert cli.err.count("forgotten") == 1
    cli.turn()
    server.refuse(asked(server)[0], -32006, "backend lost", history_lost=True)
    assert cli.err.count("forgotten") == 2


def test_chatInterruptEndsTheAnswerAndReturnsToThePrompt() -> None:
    cli, server = chatting("one", "two", "three")
    for _ in range(2):  # each Ctrl-C is the first of its answer
        id, *_ = asked(server)
        server.answer(id, token("a"))
        cli.interrupt()
        assert server.request()["params"] == {"id": id}
        server.answer(id, finish("abort"))
        cli.turn()
    server.answer(asked(server)[0], token("b"), finish())
    cli.turn()
    assert (cli.out, cli.status) == ("a\na\nb\n", 0)
    assert cli.err == "interrupted\ninterrupted\n"


def test_anInterruptOfAnAnswerThatHasEndedDoesNotMeetTheNext() -> None:
    cli, server = chatting("one", "two")
    id, *_ = asked(server)
    signal.raise_signal(signal.SIGINT)  # in line behind the bytes that have arrived already
    server.answer(id, token("a"), finish())
    cli.turn()
    id, prompt, _ = asked(server)
    assert prompt == "two"
    server.answer(id, token("b"), finish())
    cli.turn()
    assert (cli.out, cli.status) == ("a\nb\n", 0)


def test_chatInterruptAtThePromptClears() -> None:
    cli, server = chatting(KeyboardInterrupt(), "one", isTty=True)
    assert "Ctrl-D or /exit leaves" in cli.err
    assert cli.out == "\n"
    server.answer(asked(server)[0], token("a"), finish())
    cli.turn()
    assert cli.status == 0


def test_signalsWhileALineIsRead() -> None:
    """At the prompt Ctrl-C is the prompt's, and SIGTERM does not wait for the reactor; afterwards all is as before."""
    seen: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)

    def terminated() -> str:
        seen.append(signal.getsignal(signal.SIGINT))
        signal.raise_signal(signal.SIGTERM)
        return "not terminated"

    cli = Cli("chat", lines=[terminated])
    ours = signal.getsignal(signal.SIGINT)
    cli.connect()
    cli.turn()
    assert seen == [signal.default_int_handler]
    assert cli.status == 128 + signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (ours, before)
