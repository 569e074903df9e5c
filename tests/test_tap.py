"""The options of twistd rkllm."""

import os
import socket

import pytest

from rkllm_twisted.listening import HeldPath
from rkllm_twisted.service import RKLLMService
from rkllm_twisted.tap import Options, makeService


def parsed(*arguments, **environ):
    options = Options(environ)
    options.parseOptions(arguments)
    return options


def refusal(*arguments, **environ):
    """The one line that bad options end with."""
    with pytest.raises(SystemExit) as ended:
        makeService(parsed(*arguments, **environ))
    line = ended.value.code
    assert isinstance(line, str)
    assert line.startswith("rkllm: ")
    assert "\n" not in line
    return line


def test_defaults():
    options = parsed()
    assert (options["listen"], options["max-clients"]) == ("unix:/tmp/rkllm.sock", 100)
    assert options["backend"] is options["model"] is None


def test_environment():
    options = parsed(RKLLM_UDS_PATH="/run/a:b.sock", RKLLM_MAX_CLIENTS="7")
    assert (options["listen"], options["max-clients"]) == (r"unix:/run/a\:b.sock", 7)


def test_options_go_before_the_environment():
    options = parsed("--listen", "unix:/x", "--max-clients", "9", RKLLM_UDS_PATH="/y", RKLLM_MAX_CLIENTS="7")
    assert (options["listen"], options["max-clients"]) == ("unix:/x", 9)


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["--nonsense"], {}, "option --nonsense not recognized"),
        (["extra"], {}, "extra"),
        (["--max-clients", "0"], {}, "--max-clients: expected a whole number from 1 up, got '0'"),
        ([], {"RKLLM_MAX_CLIENTS": "many"}, "RKLLM_MAX_CLIENTS: expected a whole number from 1 up, got 'many'"),
        (["--max-queue", "-1"], {}, "--max-queue"),
        (["--backend", "nope"], {}, "no backend is called 'nope'"),
        (["--backend", "scripted:interval=x"], {}, "interval: expected seconds"),
        (["--backend", "scripted:interval=nan"], {}, "interval: expected seconds"),
        (["--backend", "scripted:interval=-1"], {}, "interval: expected seconds"),
        (["--max-clients", "\u0663"], {}, "--max-clients: expected a whole number"),
        (["--queue-timeout", "nan"], {}, "--queue-timeout: expected seconds above 0, got 'nan'"),
        (["--backend", "scripted", "--listen", "unix:/tmp/x:mode=7777"], {}, "--listen: .*up to 777"),
        (["--backend", "scripted", "--listen", "unix:/tmp/x:backlog=-1"], {}, "--listen: .*backlog"),
        (["--backend", "scripted", "--listen", "tcp:abc"], {}, "--listen: 'tcp:abc' is no server endpoint string"),
        (["--backend", "scripted", "--listen", "nowhere:5"], {}, "--listen"),
        (["--backend", "scripted", "--listen", "unix:"], {}, "--listen: .*no path"),
        (["--backend", "scripted", "--listen", "unix:/tmp/x:mode=9"], {}, "--listen: .*mode"),
        (["--backend", "scripted", "--listen", "unix:/tmp/x:colour=1"], {}, "--listen: .*unknown option colour"),
        (["--backend", "scripted", "--listen", "unix:/nonexistent/s"], {}, "/nonexistent/s: its directory"),
        (["--backend", "scripted", "--listen", "unix:/tmp/s", "--model", ""], {}, "model load failed"),
    ],
)
def test_bad_options(arguments, environ, said):
    import re

    assert re.search(said, refusal(*arguments, **environ))


def test_live_socket(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        assert "already" in refusal("--backend", "scripted", "--listen", f"unix:{path}")


def test_listening_that_fails_at_the_start():
    options = parsed("--backend", "scripted", "--listen", "tcp:1:interface=256.0.0.1")
    with pytest.raises(SystemExit) as ended:
        makeService(options).startService()
    assert str(ended.value.code).startswith("rkllm: ")


def test_path_that_another_daemon_holds(tmp_path):
    held = HeldPath(str(tmp_path / "s"))
    assert "another daemon" in refusal("--backend", "scripted", "--listen", f"unix:{tmp_path}/s")
    held.release()


def test_service(tmp_path):
    options = parsed("--backend", "scripted", RKLLM_UDS_PATH=str(tmp_path / "s"))
    assert isinstance(makeService(options), RKLLMService)
    assert os.listdir(tmp_path) == []


def test_list_of_backends(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--list-backends")
    assert not ended.value.code
    assert "scripted   repeats the prompt" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("--version")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("rkllm-twisted 0")
