"""What the command line says, and what it leaves to standard input."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace

import pytest

from rkllm_twisted import __version__
from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.problems import UsageError
from rkllm_twisted.cli.program import readInput
from tests.cli.inmemory import Stdin


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
