"""The command, in memory: arguments, what is written where, exit status. Real processes: test_cli_process.py."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from rkllm_twisted import __version__
from rkllm_twisted.cli.answering import figures
from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.problems import UsageError, unreachable
from rkllm_twisted.cli.program import readInput, start
from rkllm_twisted.cli.terminal import Terminal
from rkllm_twisted.client import StreamResult
from rkllm_twisted.values import CallState, RKLLMPerfStat
from tests.spoken_server import SpokenServer, finish, outcome, token

SOCKET = "/run/test.sock"
ACKNOWLEDGED = {"success": True, "message": ""}


class Stream(io.StringIO):
    """Standard output or error, a terminal or not; ``break_`` makes its reader go."""

    def __init__(self, isTty: bool = False) -> None:
        super().__init__()
        self._isTty = isTty
        self._isBroken = False

    def isatty(self) -> bool:
        return self._isTty

    def break_(self) -> None:
        self._isBroken = True

    def write(self, text: str) -> int:
        if self._isBroken:
            raise BrokenPipeError
        return super().write(text)


class Stdin:
    """Standard input."""

    def __init__(self, content: bytes = b"", isTty: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self._isTty = isTty

    def isatty(self) -> bool:
        return self._isTty


class Reactor(MemoryReactorClock):
    """Calls from threads are called when time passes."""

    def callFromThread(self, function: Callable[[], object]) -> None:
        self.callLater(0, function)


class Cli:
    """A command under way, up to its connection to the daemon."""

    def __init__(
        self,
        *argv: str,
        stdin: bytes = b"",
        isTty: bool = False,
        environ: Mapping[str, str] | None = None,
        lines: list[Any] | None = None,
    ) -> None:
        environ = {"TERM": "xterm", **(environ or {})}
        self.stdout, self.stderr = Stream(isTty), Stream(isTty)
        self.reactor = Reactor()
        self.prompts: list[str] = []
        self._lines = lines or []
        options = parse([*argv, "--socket", SOCKET], environ)
        readInput(options, Stdin(stdin))
        self.done = start(self.reactor, options, Terminal(self.stdout, self.stderr, environ), self._readLine)
        outcome(self.done)  # from here on nothing that it ends with counts as unhandled
        _, self.factory, *_ = self.reactor.unixClients[0]

    def connect(self) -> SpokenServer:
        return SpokenServer(self.factory.buildProtocol(None))

    def _readLine(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self._lines.pop(0) if self._lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line() if callable(line) else line

    def turn(self) -> None:
        """The reactor goes once round."""
        self.reactor.advance(0)

    def interrupt(self) -> None:
        signal.raise_signal(signal.SIGINT)
        self.turn()

    @property
    def out(self) -> str:
        return self.stdout.getvalue()

    @property
    def err(self) -> str:
        return self.stderr.getvalue()

    @property
    def status(self) -> int | None:
        """The exit status; None while it goes on."""
        seen = outcome(self.done)
        if not seen:
            return None
        assert isinstance(seen[0], SystemExit), seen
        return seen[0].code  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


# Arguments


def test_theSocket() -> None:
    assert parse(["status"], {}).socket == "/tmp/rkllm.sock"
    assert parse(["status"], {"RKLLM_UDS_PATH": ""}).socket == "/tmp/rkllm.sock"
    assert parse(["status"], {"RKLLM_UDS_PATH": "/a"}).socket == "/a"
    assert parse(["status", "--socket", "/b"], {"RKLLM_UDS_PATH": "/a"}).socket == "/b"
    assert parse(["--socket", "/b", "status"], {"RKLLM_UDS_PATH": "/a"}).socket == "/b"


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["call"], ["run", "a", "b"], ["run", "a", "--top-k", "x"]])
def test_wrongUsage(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, {})
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["run", "chat"])
@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("--max-new-tokens", ["0", "-7", "1.5", "2147483648"], "a whole number of 1 or more"),
        ("--top-k", ["0", "-1", ""], "a whole number of 1 or more"),
        ("--temperature", ["nan", "inf", "-0.1", "hot"], "a number of 0 or more"),
        ("--top-p", ["nan", "inf", "0", "1.01"], "a number above 0, at most 1"),
    ],
)
def test_valuesOutOfRange(
    command: str, option: str, values: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        with pytest.raises(SystemExit) as caught:
            parse([command, f"{option}={value}"], {})
        assert caught.value.code == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line == f"rkllm {command}: error: argument {option}: expected {expected}, got {value!r}"


def test_valuesAtTheirLimits() -> None:
    options = parse(["run", "--temperature", "0", "--top-p", "1", "--top-k", "1", "--max-new-tokens", "1"], {})
    assert (options.temperature, options.top_p, options.top_k, options.max_new_tokens) == (0.0, 1.0, 1, 1)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {"RKLLM_UDS_PATH": "/a%sb"})
    assert caught.value.code == 0
    assert "now /a%sb" in capsys.readouterr().out


def test_versionNeedsNoTwisted() -> None:
    code = (
        "import sys; from rkllm_twisted.cli import main\n"
        "try: main(['--version'])\n"
        "finally: print('twisted' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"rkllm {__version__}\nFalse\n"


def read(*argv: str, stdin: bytes = b"", isTty: bool = False) -> Namespace:
    options = parse(argv, {})
    readInput(options, Stdin(stdin, isTty))
    return options


def test_whatIsReadFromStandardInput() -> None:
    assert read("run", "hi", stdin=b"other").prompt == "hi"
    assert read("run", "-", stdin="é\nü".encode()).prompt == "é\nü"
    assert read("run", stdin=b"piped").prompt == "piped"
    assert read("call", "m", "-", stdin=b"[1,\n2]").params == [1, 2]
    assert read("call", "m", '{"a": null}').params == {"a": None}
    assert read("call", "m", stdin=b"[1]").params is None


@pytest.mark.parametrize(
    ("argv", "stdin", "isTty", "message"),
    [
        (["run"], b"", True, "nothing to answer"),
        (["run"], b"\n", False, "empty"),
        (["run", ""], b"", True, "empty"),
        (["run", "-"], b"\xff", False, "UTF-8"),
        (["run", "\udcff"], b"", False, "UTF-8"),
        (["call", "m", "{"], b"", False, "not JSON"),
        (["call", "m", "-"], b"", False, "not JSON"),
        (["call", "m", "[" * 100_000], b"", False, "not JSON"),
    ],
)
def test_whatCannotBeRead(argv: list[str], stdin: bytes, isTty: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(*argv, stdin=stdin, isTty=isTty)


# run


def test_runStreams() -> None:
    cli = Cli("run", "hi")
    server = cli.connect()
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
    cli = Cli("run", "hi")
    server = cli.connect()
    server.answer(server.request()["id"], token("a\n"), finish())
    assert cli.out == "a\n"


def test_optionsOfOneRun() -> None:
    """On a model that is loaded they go with the run."""
    cli = Cli("run", "hi", "--max-new-tokens", "5", "--temperature", "0", "--top-k", "1", "--top-p", "0.5")
    server = cli.connect()
    inferParam = server.request()["params"][2]
    sampling = {"temperature": 0.0, "top_k": 1, "top_p": 0.5}
    assert inferParam == {"max_new_tokens": 5, "sampling_params": sampling}
    cli.done.cancel()


def test_runJson() -> None:
    cli = Cli("run", "hi", "--json", "--stats")
    server = cli.connect()
    results = [token("é"), finish()]
    server.answer(server.request()["id"], *results)
    assert [json.loads(line) for line in cli.out.splitlines()] == results
    assert "prefill" in cli.err


def test_stats() -> None:
    cli = Cli("run", "hi", "--stats")
    server = cli.connect()
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
    cli = Cli("run", "hi")
    server = cli.connect()
    server.refuse(server.request()["id"], -32000, "model not initialized")
    assert (cli.out, cli.status) == ("", 1)
    assert cli.err.count("\n") == 1
    assert "rkllm run --model smollm2" in cli.err


def refuseFirst(cli: Cli) -> SpokenServer:
    server = cli.connect()
    server.refuse(server.request()["id"], -32000, "model not initialized")
    return server


def test_theModelNamedIsLoadedWhereThereIsNone() -> None:
    cli = Cli("run", "hi", "--model", "smollm2", "--top-k", "3", "--max-new-tokens", "9")
    server = refuseFirst(cli)
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
    cli = Cli("run", "hi", "--model", "m", "--top-k", "3", "--temperature", "0.5", "--max-new-tokens", "9")
    server = refuseFirst(cli)
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
    cli = Cli("run", "hi", "--top-k", "3")
    server = cli.connect()
    server.refuse(server.request()["id"], -32008, "not supported: this needs prompt_input", needs="prompt_input")
    assert (cli.err, cli.status) == ("rkllm: not supported: this needs prompt_input (-32008)\n", 1)


def test_theModelNamedIsNotLoadedWhereThereIsOne() -> None:
    cli = Cli("run", "hi", "--model", "smollm2")
    server = cli.connect()
    server.answer(server.request()["id"], token("a"), finish())
    assert (cli.status, server.received()) == (0, [])


def test_aFileOfThisDirectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has another working directory."""
    (tmp_path / "m.rkllm").touch()
    monkeypatch.chdir(tmp_path)
    cli = Cli("run", "hi", "--model", "m.rkllm")
    server = refuseFirst(cli)
    assert server.request()["params"][1]["model_path"] == str(tmp_path / "m.rkllm")
    cli.done.cancel()


def test_progressOfLoading() -> None:
    cli = Cli("run", "hi", "--model", "m", isTty=True)
    server = refuseFirst(cli)
    assert cli.err == "loading m … 0 s"
    for _ in range(2):
        cli.reactor.advance(1)
    assert cli.err.endswith("\r\x1b[Kloading m … 2 s")
    server.answer(server.request()["id"], ACKNOWLEDGED)
    assert cli.err.endswith("2 s\r\x1b[K")
    assert cli.reactor.getDelayedCalls() == []
    server.answer(server.request()["id"], finish())
    assert cli.status == 0


def test_progressIsErasedBeforeAnError() -> None:
    cli = Cli("run", "hi", "--model", "m", isTty=True)
    server = refuseFirst(cli)
    server.refuse(server.request()["id"], -32005, "model load failed: no such file", reason="no such file")
    assert cli.err == "loading m … 0 s\r\x1b[Krkllm: model load failed: no such file (-32005)\n"
    assert cli.status == 1


def test_noProgressOnADumbTerminal() -> None:
    cli = Cli("run", "hi", "--model", "m", isTty=True, environ={"TERM": "dumb"})
    refuseFirst(cli)
    assert cli.err == ""
    cli.done.cancel()


@pytest.mark.parametrize(
    ("isTty", "environ", "isColoured"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colour(isTty: bool, environ: dict[str, str], isColoured: bool) -> None:
    cli = Cli("run", "hi", "--stats", isTty=isTty, environ=environ)
    server = cli.connect()
    server.answer(server.request()["id"], token("a"), finish())
    assert cli.err.startswith("\x1b[2m") is isColoured
    assert ("\x1b" in cli.out + cli.err) is isColoured


def test_anAnswerDoesNotCommandTheTerminal() -> None:
    text = "\x1b]0;title\x07\x9b2J\tok\r\n"
    for isTty, shown in ((True, "␛]0;title␇\ufffd2J\tok␍\n"), (False, text)):
        cli = Cli("run", "hi", isTty=isTty)
        server = cli.connect()
        server.answer(server.request()["id"], token(text), finish())
        assert cli.out == shown


def test_theProgressLineGivesWayToTheAnswer() -> None:
    stdout = stderr = Stream(isTty=True)
    terminal = Terminal(stdout, stderr, {})
    terminal.progress("loading")
    terminal.write("a")
    terminal.progress("more")
    terminal.line("b")
    assert stderr.getvalue() == "loading\r\x1b[Ka\nmore\r\x1b[Kb\n"


def test_anErrorHalfWay() -> None:
    """What came is shown, the error stands on a line of its own."""
    cli = Cli("run", "hi")
    server = cli.connect()
    bad = {"code": -32006, "message": "backend lost: killed", "data": {"signal": 9}}
    server.answer(server.request()["id"], token("a"), token(None, 3, error=bad))
    assert (cli.out, cli.err, cli.status) == ("a\n", "rkllm: backend lost: killed (-32006)\n", 1)


def test_aConnectionLostHalfWay() -> None:
    cli = Cli("run", "hi")
    server = cli.connect()
    server.answer(server.request()["id"], token("a"))
    server.hangUp()
    assert (cli.out, cli.status) == ("a\n", 1)
    assert cli.err == "rkllm: connection to the server lost: the server closed it\n"


def test_anErrorOfManyLinesIsOne() -> None:
    cli = Cli("run", "hi")
    server = cli.connect()
    server.refuse(server.request()["id"], -32004, "runtime call failed: a\n  b", function="f", status=1)
    assert cli.err == "rkllm: runtime call failed: a b (-32004)\n"


@pytest.mark.parametrize("argv", [["run", "hi"], ["run", "hi", "--json"]])
def test_anAnswerEndedByAnother(argv: list[str]) -> None:
    """The daemon that stops, or the abort of somebody else: it looks like an answer, and is none."""
    cli = Cli(*argv)
    server = cli.connect()
    server.answer(server.request()["id"], token("a"), finish("abort"))
    assert cli.out.count("\n") == (2 if "--json" in argv else 1)
    assert cli.err.startswith("rkllm: the answer is not complete")
    assert (cli.err.count("\n"), cli.status) == (1, 1)


def test_aBrokenPipeIsQuiet() -> None:
    cli = Cli("run", "hi")
    server = cli.connect()
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
    cli = Cli("run", "hi", "--stats")
    server = cli.connect()
    server.answer(server.request()["id"], finish())
    assert isinstance(outcome(cli.done)[0], ZeroDivisionError)


# The daemon is not there


@pytest.mark.parametrize(
    ("error", "socket", "message"),
    [
        (
            ConnectError(2),
            "/tmp/rkllm.sock",
            "no daemon answers at /tmp/rkllm.sock (no such file or directory); start one: twistd -n rkllm",
        ),
        (
            ConnectionRefusedError(111),
            "/a:b",
            "no daemon answers at /a:b (connection refused); start one: twistd -n rkllm --listen unix:/a\\:b",
        ),
        (
            ConnectError(2),
            "unix:/a",
            "no daemon answers at unix:/a (no such file or directory); start one: twistd -n rkllm --listen unix:/a",
        ),
        (ConnectError(13), "/a", "/a may not be opened: it belongs to another user"),
    ],
)
def test_unreachable(error: ConnectError, socket: str, message: str) -> None:
    assert unreachable(error, socket) == message


@pytest.mark.parametrize("argv", [["run", "hi"], ["chat"], ["status"], ["call", "m"]])
def test_noDaemon(argv: list[str]) -> None:
    cli = Cli(*argv)
    cli.factory.clientConnectionFailed(None, Failure(ConnectError(2)))
    assert (cli.out, cli.status) == ("", 1)
    assert cli.err.startswith(f"rkllm: no daemon answers at {SOCKET}")
    assert cli.err.count("\n") == 1


@pytest.mark.parametrize("address", ["carrierpigeon:x", "tcp:bad", "x" * 108, "unix:" + "é" * 54])
def test_anAddressThatIsNone(address: str) -> None:
    stderr = Stream()
    options = parse(["status"], {"RKLLM_UDS_PATH": address})
    (error,) = outcome(start(Reactor(), options, Terminal(Stream(), stderr, {})))
    assert (type(error), error.code) == (SystemExit, 2)
    assert stderr.getvalue().startswith(f"rkllm: --socket {address}: ")
    assert stderr.getvalue().count("\n") == 1


# Ctrl-C


def test_interruptEndsTheGenerationAndWaitsForItsLastLine() -> None:
    cli = Cli("run", "hi", "--stats")
    server = cli.connect()
    id = server.request()["id"]
    server.answer(id, token("a"))
    cli.interrupt()
    assert server.request() == {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}
    assert cli.status is None
    server.answer(id, token("b"), finish("abort"))
    assert (cli.out, cli.status) == ("ab\n", 130)
    assert "ended by abort" in cli.err


def test_interruptBeforeTheFirstToken() -> None:
    """-32800 is what was asked for, not an error."""
    cli = Cli("run", "hi", isTty=True)
    server = cli.connect()
    id = server.request()["id"]
    cli.interrupt()
    server.refuse(id, -32800, "cancelled")
    assert (cli.out, cli.err, cli.status) == ("\n", "", 130)  # the terminal shows ^C: that line is ended


def test_cancelledByAnother() -> None:
    cli = Cli("run", "hi")
    server = cli.connect()
    server.refuse(server.request()["id"], -32800, "cancelled")
    assert (cli.err, cli.status) == ("rkllm: cancelled (-32800)\n", 1)


def test_interruptWhileLoading() -> None:
    cli = Cli("run", "hi", "--model", "m", isTty=True)
    server = refuseFirst(cli)
    id = server.request()["id"]
    cli.interrupt()
    assert cli.status == 130
    assert cli.err == "loading m … 0 s\r\x1b[K"
    assert server.request()["params"] == {"id": id}
    assert cli.reactor.getDelayedCalls() == []


def test_interruptWhileConnecting() -> None:
    cli = Cli("run", "hi")
    cli.interrupt()
    assert (cli.status, cli.err) == (130, "")


def test_theSecondInterruptLeavesAtOnce(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    cli = Cli("run", "hi", "--model", "m", isTty=True)
    server = refuseFirst(cli)
    signal.raise_signal(signal.SIGINT)
    assert left == []
    signal.raise_signal(signal.SIGINT)  # the reactor has not come round: it may be stuck
    assert left == [130]
    assert cli.err.endswith("\r\x1b[K")
    cli.turn()
    server.hangUp()


# status


def test_statusOfADaemonThatTellsAboutItself() -> None:
    facts = {
        "version": "0.1.0",
        "backend": {"name": "llamacpp", "state": "ready"},
        "model": None,
        "queue": {"length": 2, "positions": [1, 2]},
        "is_running": True,
    }
    for argv, isJson in ((["status"], False), (["status", "--json"], True)):
        cli = Cli(*argv)
        server = cli.connect()
        request = server.request()
        assert request["method"] == "server.status"
        server.answer(request["id"], facts)
        assert (cli.err, cli.status) == ("", 0)
        if isJson:
            assert json.loads(cli.out) == facts
        else:
            assert [line.split("  ")[0] + "=" + line.split("  ")[-1].strip() for line in cli.out.splitlines()] == [
                f"socket={SOCKET}",
                "version=0.1.0",
                "backend name=llamacpp",
                "backend state=ready",
                "model=none",
                "queue length=2",
                "queue positions=[1,2]",
                "is running=yes",
            ]


def test_statusOfADaemonThatDoesNot() -> None:
    cli = Cli("status")
    server = cli.connect()
    server.refuse(server.request()["id"], -32601, "method not found: server.status")
    request = server.request()
    assert request["method"] == "rkllm.is_running"
    server.answer(request["id"], {"is_running": False, "status_code": 0})
    assert (cli.out, cli.err, cli.status) == (f"socket      {SOCKET}\ngenerating  no\n", "", 0)


def test_statusThatFails() -> None:
    cli = Cli("status")
    server = cli.connect()
    server.refuse(None, -32001, "busy: 100 clients", retryable=True)
    assert (cli.out, cli.err, cli.status) == ("", "rkllm: busy: 100 clients (-32001)\n", 1)


# call


def test_callPrintsEachLineAsItComes() -> None:
    cli = Cli("call", "rkllm.run_async", '[null, {"prompt_input": "hi"}]')
    server = cli.connect()
    request = server.request()
    assert (request["method"], request["params"]) == ("rkllm.run_async", [None, {"prompt_input": "hi"}])
    server.answer(request["id"], ACKNOWLEDGED)
    assert json.loads(cli.out) == ACKNOWLEDGED
    server.answer(request["id"], token("a"))
    assert cli.out.count("\n") == 2
    server.answer(request["id"], finish())
    assert [json.loads(line) for line in cli.out.splitlines()] == [ACKNOWLEDGED, token("a"), finish()]
    assert (cli.err, cli.status) == ("", 0)


def test_callThatFails() -> None:
    cli = Cli("call", "rkllm.init", "[]")
    server = cli.connect()
    server.refuse(server.request()["id"], -32001, "busy", retryable=True, queue_length=64)
    assert (cli.out, cli.err, cli.status) == ("", 'rkllm: busy (-32001) {"queue_length":64}\n', 1)


def test_callSaysWhatTheServerSays() -> None:
    """The hint at --model is for those who can give it."""
    cli = Cli("call", "rkllm.destroy")
    server = cli.connect()
    server.refuse(server.request()["id"], -32000, "model not initialized", retryable=False)
    assert cli.err == "rkllm: model not initialized (-32000)\n"


def test_callInterrupted() -> None:
    cli = Cli("call", "rkllm.run", "[]")
    server = cli.connect()
    id = server.request()["id"]
    server.answer(id, token("a"))
    cli.interrupt()
    assert server.request()["method"] == "$/cancelRequest"
    server.answer(id, finish("abort"))
    assert (cli.out.count("\n"), cli.status) == (2, 130)
    cli = Cli("call", "rkllm.run", "[]")
    server = cli.connect()
    id = server.request()["id"]
    cli.interrupt()
    server.refuse(id, -32800, "cancelled")
    assert (cli.err, cli.status) == ("", 130)


# chat


def asked(server: SpokenServer) -> tuple[object, str, object]:
    request = server.request()
    assert request["method"] == "rkllm.run"
    return request["id"], request["params"][1]["prompt_input"], request["params"][2].get("keep_history")


def test_chatGoesOnAfterEachAnswer() -> None:
    cli = Cli("chat", lines=["one", "", "  two ", EOFError()], isTty=True)
    server = cli.connect()
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
    cli = Cli("chat", lines=[])
    cli.connect()
    cli.turn()
    assert (cli.prompts, cli.out, cli.status) == ([""], "", 0)


@pytest.mark.parametrize("word", ["/exit", "/quit", " /exit "])
def test_chatCommands(word: str) -> None:
    cli = Cli("chat", lines=["/help", "/what", word, "more"])
    server = cli.connect()
    for _ in range(3):
        cli.turn()
    assert "/exit" in cli.err
    assert "there is no /what" in cli.err
    assert (cli.status, server.received()) == (0, [])


def clearing(cli: Cli, server: SpokenServer) -> object:
    cli.turn()
    request = server.request()
    assert (request["method"], request["params"]) == ("rkllm.clear_kv_cache", [None, True, None, None])
    return request["id"]


def test_chatClears() -> None:
    cli = Cli("chat", lines=["/clear", "one"])
    server = cli.connect()
    id = clearing(cli, server)
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
    cli = Cli("chat", lines=["/clear", "one"])
    server = cli.connect()
    server.refuse(clearing(cli, server), code, message)
    assert cli.err == said
    cli.turn()
    assert asked(server)[1] == "one"
    cli.done.cancel()


def test_chatInterruptWhileClearing() -> None:
    """The daemon may be busy with another's answer."""
    cli = Cli("chat", lines=["/clear", "one"])
    server = cli.connect()
    id = clearing(cli, server)
    cli.interrupt()
    cancelled, run = server.received()
    assert (cancelled["method"], cancelled["params"]) == ("$/cancelRequest", {"id": id})
    assert cli.err == "interrupted, nothing was forgotten\n"
    assert run["params"][1]["prompt_input"] == "one"
    cli.done.cancel()


def test_chatEndsWithItsConnectionWhileClearing() -> None:
    cli = Cli("chat", lines=["/clear", "one"])
    server = cli.connect()
    clearing(cli, server)
    server.hangUp()
    assert (cli.status, server.received()) == (1, [])
    assert "connection to the server lost" in cli.err


def test_chatWithABackendThatKeepsNoHistory() -> None:
    cli = Cli("chat", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
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
    cli = Cli("chat", "--top-k", "1", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
    server.refuse(asked(server)[0], -32008, "not supported: this needs sampling_params", needs="sampling_params")
    assert "does not take --top-k for a single run" in cli.err
    assert (cli.status, server.received()) == (2, [])


def test_chatThatNeedsSomethingElseThatIsMissing() -> None:
    cli = Cli("chat", lines=["one"])
    server = cli.connect()
    cli.turn()
    server.refuse(asked(server)[0], -32008, "not supported: this needs prompt_input", needs="prompt_input")
    assert cli.err == "rkllm: not supported: this needs prompt_input (-32008)\n"
    assert server.received() == []


def test_chatSaysThatAnotherEndedTheAnswer() -> None:
    cli = Cli("chat", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
    server.answer(asked(server)[0], token("1"), finish("abort"))
    assert cli.err.startswith("the answer is not complete")
    cli.turn()
    assert asked(server)[1] == "two"
    cli.done.cancel()


def test_chatGoesOnAfterAnError() -> None:
    cli = Cli("chat", lines=["long", "short"])
    server = cli.connect()
    cli.turn()
    server.refuse(asked(server)[0], -32010, "prompt too long: 9 tokens", tokens=9, limit=8)
    cli.turn()
    server.answer(asked(server)[0], token("ok"), finish())
    cli.turn()
    assert (cli.out, cli.err, cli.status) == ("ok\n", "rkllm: prompt too long: 9 tokens (-32010)\n", 0)


def test_chatEndsWithItsConnection() -> None:
    cli = Cli("chat", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
    server.hangUp()
    assert (cli.status, len(cli.prompts)) == (1, 1)
    assert "connection to the server lost" in cli.err


def test_chatWithoutAModel() -> None:
    cli = Cli("chat", lines=["one"])
    server = cli.connect()
    cli.turn()
    server.refuse(asked(server)[0], -32000, "model not initialized")
    assert cli.status == 1
    assert "rkllm chat --model smollm2" in cli.err


def test_chatSaysThatHistoryWasLost() -> None:
    """W-HISTORY, and the loss of a backend."""
    cli = Cli("chat", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
    server.answer(asked(server)[0], token("1"), finish(history_lost=True))
    assert cli.err.count("forgotten") == 1
    cli.turn()
    server.refuse(asked(server)[0], -32006, "backend lost", history_lost=True)
    assert cli.err.count("forgotten") == 2


def test_chatInterruptEndsTheAnswerAndReturnsToThePrompt() -> None:
    cli = Cli("chat", lines=["one", "two", "three"])
    server = cli.connect()
    cli.turn()
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
    cli = Cli("chat", lines=["one", "two"])
    server = cli.connect()
    cli.turn()
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
    cli = Cli("chat", lines=[KeyboardInterrupt(), "one"], isTty=True)
    server = cli.connect()
    cli.turn()
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
