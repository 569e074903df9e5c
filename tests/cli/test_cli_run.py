"""``rkllm run``: one prompt, its answer, and what keeps one from coming."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rkllm_twisted.cli.answering import figures
from rkllm_twisted.client import StreamResult
from rkllm_twisted.values import CallState, RKLLMPerfStat
from tests.cli.inmemory import ACKNOWLEDGED, connected, withoutModel
from tests.spoken_server import finish, outcome, token


def test_runStreams() -> None:
    cli, server = connected("run", "hi")
    request = server.request()
    assert request["method"] == "rkllm.run"
    assert request["params"] == [None, {"input_type": 0, "prompt_input": "hi"}, {}, None]
    server.answer(request["id"], token("Hé"))
    assert cli.out == "Hé"
    server.answer(request["id"], token(None, 1), token("llo"))
    assert (cli.out, cli.status) == ("Héllo", None)
    server.answer(request["id"], finish())
    assert (cli.out, cli.err, cli.status) == ("Héllo\n", "", 0)
    assert server.transport.disconnecting


def test_anAnswerThatEndsItsLineGetsNoOther() -> None:
    cli, server = connected("run", "hi")
    server.answer(server.request()["id"], token("a\n"), finish())
    assert cli.out == "a\n"


def test_optionsOfOneRun() -> None:
    """On a model that is loaded they go with the run."""
    cli, server = connected(
        "run", "hi", "--max-new-tokens", "5", "--temperature", "0", "--top-k", "1", "--top-p", "0.5"
    )
    inferParam = server.request()["params"][2]
    sampling = {"temperature": 0.0, "top_k": 1, "top_p": 0.5}
    assert inferParam == {"max_new_tokens": 5, "sampling_params": sampling}
    cli.done.cancel()


def test_runJson() -> None:
    cli, server = connected("run", "hi", "--json", "--stats")
    results = [token("é"), finish()]
    server.answer(server.request()["id"], *results)
    assert [json.loads(line) for line in cli.out.splitlines()] == results
    assert "prefill" in cli.err


def test_stats() -> None:
    cli, server = connected("run", "hi", "--stats")
    id = server.request()["id"]
    cli.reactor.advance(0.25)
    server.answer(id, token("a"))
    cli.reactor.advance(9)
    server.answer(id, finish())
    assert cli.out == "a\n"
    assert cli.err == (
        "prefill 10 tokens in 20 ms (500.0 tokens/s) · decode 2 tokens in 50 ms (40.0 tokens/s) · "
        "first token after 250 ms · ended by stop\n"
    )


def test_figuresThatAreNotThere() -> None:
    nothing = StreamResult(callState=CallState.RKLLM_RUN_FINISH)
    assert figures(nothing, None) == "no figures"
    some = StreamResult(callState=CallState.RKLLM_RUN_FINISH, perf=RKLLMPerfStat(prefill_tokens=3))
    assert figures(some, None) == "prefill 3 tokens in 0 ms · decode 0 tokens in 0 ms"


def test_noModelAndNoneNamed() -> None:
    cli, server = connected("run", "hi")
    server.refuse(server.request()["id"], -32000, "model not initialized")
    assert (cli.out, cli.status) == ("", 1)
    assert cli.err.count("\n") == 1
    assert "rkllm run --model smollm2" in cli.err


def test_theModelNamedIsLoadedWhereThereIsNone() -> None:
    cli, server = withoutModel("run", "hi", "--model", "smollm2", "--top-k", "3", "--max-new-tokens", "9")
    init = server.request()
    assert init["method"] == "rkllm.init"
    assert init["params"] == [None, {"model_path": "smollm2"}]  # for everybody: what was chosen is for this run
    assert cli.err == ""  # no progress line where that is no terminal
    server.answer(init["id"], ACKNOWLEDGED)
    run = server.request()
    assert run["params"][2] == {"max_new_tokens": 9, "sampling_params": {"top_k": 3}}
    server.answer(run["id"], token("a"), finish())
    assert (cli.out, cli.err, cli.status) == ("a\n", "", 0)


def test_optionsThatTheBackendCannotTakeWithARun() -> None:
    """They do not become everybody's without a word."""
    cli, server = withoutModel(
        "run", "hi", "--model", "m", "--top-k", "3", "--temperature", "0.5", "--max-new-tokens", "9"
    )
    server.answer(server.request()["id"], ACKNOWLEDGED)
    lacking = "max_new_tokens, sampling_params"
    server.refuse(server.request()["id"], -32008, f"not supported: this needs {lacking}", needs=lacking)
    assert (cli.out, cli.status, server.received()) == ("", 2, [])
    assert cli.err.startswith(
        "rkllm: the daemon's backend does not take --temperature, --top-k, --max-new-tokens for a single run; "
    )
    assert cli.err.endswith('{"model_path":"…","temperature":0.5,"top_k":3,"max_new_tokens":9}]\'\n')
    assert cli.err.count("\n") == 1


def test_whatElseTheBackendCannotDo() -> None:
    cli, server = connected("run", "hi", "--top-k", "3")
    server.refuse(server.request()["id"], -32008, "not supported: this needs prompt_input", needs="prompt_input")
    assert (cli.err, cli.status) == ("rkllm: not supported: this needs prompt_input (-32008)\n", 1)


def test_theModelNamedIsNotLoadedWhereThereIsOne() -> None:
    cli, server = connected("run", "hi", "--model", "smollm2")
    server.answer(server.request()["id"], token("a"), finish())
    assert (cli.status, server.received()) == (0, [])


def test_aFileOfThisDirectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has another working directory."""
    (tmp_path / "m.rkllm").touch()
    monkeypatch.chdir(tmp_path)
    cli, server = withoutModel("run", "hi", "--model", "m.rkllm")
    assert server.request()["params"][1]["model_path"] == str(tmp_path / "m.rkllm")
    cli.done.cancel()


def test_anErrorHalfWay() -> None:
    """What came is shown, the error stands on a line of its own."""
    cli, server = connected("run", "hi")
    bad = {"code": -32006, "message": "backend lost: killed", "data": {"signal": 9}}
    server.answer(server.request()["id"], token("a"), token(None, 3, error=bad))
    assert (cli.out, cli.err, cli.status) == ("a\n", "rkllm: backend lost: killed (-32006)\n", 1)


def test_aConnectionLostHalfWay() -> None:
    cli, server = connected("run", "hi")
    server.answer(server.request()["id"], token("a"))
    server.hangUp()
    assert (cli.out, cli.status) == ("a\n", 1)
    assert cli.err == "rkllm: connection to the server lost: the server closed it\n"


def test_anErrorOfManyLinesIsOne() -> None:
    cli, server = connected("run", "hi")
    server.refuse(server.request()["id"], -32004, "runtime call failed: a\n  b", function="f", status=1)
    assert cli.err == "rkllm: runtime call failed: a b (-32004)\n"


@pytest.mark.parametrize("argv", [["run", "hi"], ["run", "hi", "--json"]])
def test_anAnswerEndedByAnother(argv: list[str]) -> None:
    """The daemon that stops, or the abort of somebody else: it looks like an answer, and is none."""
    cli, server = connected(*argv)
    server.answer(server.request()["id"], token("a"), finish("abort"))
    assert cli.out.count("\n") == (2 if "--json" in argv else 1)
    assert cli.err.startswith("rkllm: the answer is not complete")
    assert (cli.err.count("\n"), cli.status) == (1, 1)


def test_aBrokenPipeIsQuiet() -> None:
    cli, server = connected("run", "hi")
    id = server.request()["id"]
    server.answer(id, token("a"))
    cli.stdout.break_()
    server.answer(id, token("b"))
    assert (cli.out, cli.err, cli.status) == ("a", "", 141)
    assert server.request()["method"] == "$/cancelRequest"


def test_aDefectIsNotHidden(flushErrors: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("rkllm_twisted.cli.answering.figures", broken)
    cli, server = connected("run", "hi", "--stats")
    server.answer(server.request()["id"], finish())
    assert isinstance(outcome(cli.done)[0], ZeroDivisionError)
