"""The options of twistd rkllm."""

import grp
import os
import pwd
import re
import socket

import pytest

from rkllm_twisted import tap
from rkllm_twisted.access import Access
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.listening import HeldPath
from rkllm_twisted.service import RKLLMService
from rkllm_twisted.tap import Options, makeService
from rkllm_twisted.testing.runtimes import ScriptedRuntime


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
    assert (options["listen"], options["max-clients"]) == ([("unix:/tmp/rkllm.sock", None)], 100)
    assert options["backend"] is options["model"] is options["isolation"] is options["max-memory"] is None
    assert options["allow-uid"] is options["allow-gid"] is options["queue-timeout"] is None
    assert (options["drain"], options["line-limit"], options["model-root"]) == (0, 60, [])
    limits = ("init-limit", "prefill-limit", "prefill-token-limit", "token-limit", "abort-limit", "max-crashes")
    assert [options[name] for name in limits] == [600, 60, 0.06, 60, 30, 5]
    assert Limits() == Limits(*[options[name] for name in limits])


def test_environment():
    options = parsed(RKLLM_UDS_PATH="/run/a:b.sock", RKLLM_MAX_CLIENTS="7")
    assert (options["listen"], options["max-clients"]) == ([(r"unix:/run/a\:b.sock", None)], 7)


def test_options_go_before_the_environment():
    options = parsed("--listen", "unix:/x", "--max-clients", "9", RKLLM_UDS_PATH="/y", RKLLM_MAX_CLIENTS="7")
    assert (options["listen"], options["max-clients"]) == ([("unix:/x", None)], 9)


def test_several_sockets_with_different_methods():
    options = parsed(
        *("--listen", "unix:/a", "--methods", "rkllm.run, rkllm.abort,server.*"),
        *("-l", "unix:/b", "--listen", "systemd:c", "--methods", "*"),
    )
    assert options["listen"] == [
        ("unix:/a", frozenset({"rkllm.run", "rkllm.abort", "server.*"})),
        ("unix:/b", None),
        ("systemd:c", frozenset({"*"})),
    ]


def test_what_is_relative_is_meant_where_the_daemon_is_started(monkeypatch, tmp_path):
    """twistd changes to its --rundir after that. A name without slash and suffix may be a short one."""
    monkeypatch.chdir(tmp_path)
    for name in ("m.gguf", "smollm2"):
        (tmp_path / name).touch()
    options = parsed("--listen", "unix:a\\:b:mode=660", "-l", "unix:/s", "-l", "tcp:0", "--model", "m.gguf")
    here = str(tmp_path).replace(":", "\\:")
    assert [address for address, _ in options["listen"]] == [
        f"unix:address={here}/a\\:b:mode=660",
        "unix:/s",
        "tcp:0",
    ]
    assert options["model"] == str(tmp_path / "m.gguf")
    assert parsed("--model", "./smollm2")["model"] == str(tmp_path / "smollm2")
    assert parsed("--model", "smollm2")["model"] == "smollm2"
    assert parsed(RKLLM_UDS_PATH="s")["listen"] == [(f"unix:address={here}/s", None)]


def test_users_and_groups():
    root, group = pwd.getpwuid(0).pw_name, grp.getgrgid(0).gr_name
    options = parsed("--allow-uid", f"{root},1000", "--allow-gid", f"44,{group}")
    assert (options["allow-uid"], options["allow-gid"]) == ({0, 1000}, {0, 44})


def test_what_the_service_is_given(monkeypatch, tmp_path):
    """Each option arrives where it belongs."""
    given = {}

    def remember(self, *arguments, **more):
        given.update(more, listen=arguments[1], model=arguments[3])

    monkeypatch.setattr(RKLLMService, "__init__", remember)
    makeService(
        parsed(
            *("--backend", "scripted", "--model", "any", "--max-clients", "1", "--max-line", "2", "--max-queue", "3"),
            *("--queue-timeout", "4", "--max-reply", "5", "--max-backlog", "6", "--line-limit", "7.5", "--drain", "8"),
            *("--model-root", "/", "--model-root", str(tmp_path), "--allow-uid", "9", "--allow-gid", "10"),
            *("--listen", f"unix:{tmp_path}/a", "--methods", "rkllm.*", "--listen", f"unix:{tmp_path}/b"),
        )
    )
    uids, gids = frozenset({9}), frozenset({10})
    assert given.pop("listen") == [
        (f"unix:{tmp_path}/a", Access(frozenset({"rkllm.*"}), uids, gids)),
        (f"unix:{tmp_path}/b", Access(None, uids, gids)),
    ]
    assert given == {
        "model": "any",
        "maxClients": 1,
        "maxLine": 2,
        "maxQueue": 3,
        "queueTimeout": 4.0,
        "maxReply": 5,
        "maxBacklog": 6,
        "lineLimit": 7.5,
        "drain": 8.0,
        "modelRoots": ["/", str(tmp_path)],
    }


@pytest.fixture
def backendOf(monkeypatch, tmp_path):
    """A function that gives the backend that the options make."""
    given = []
    monkeypatch.setattr(RKLLMService, "__init__", lambda self, backend, *_, **__: given.append(backend))

    def backendOf(*arguments):
        makeService(parsed(*arguments, RKLLM_UDS_PATH=str(tmp_path / "s")))
        return given.pop()

    return backendOf


def test_isolation(backendOf, monkeypatch):
    """A blocking backend has a process of its own unless that is not wanted; another cannot have one."""
    monkeypatch.setattr(tap, "makeBackend", lambda description: ScriptedRuntime())
    for arguments in ([], ["--isolation", "process"]):
        assert isinstance(backendOf("--backend", "blocking", *arguments), IsolatedBackend)
    assert isinstance(backendOf("--backend", "blocking", "--isolation", "none"), ScriptedRuntime)
    backend = backendOf(
        *("--backend", "blocking", "--init-limit", "1", "--prefill-limit", "2", "--prefill-token-limit", "0.5"),
        *("--token-limit", "4", "--abort-limit", "5", "--max-crashes", "6", "--max-memory", "7"),
    )
    assert backend._limits == Limits(init=1, prefill=2, prefillToken=0.5, token=4, abort=5, crashes=6, memory=7)


def test_backend_that_cannot_be_isolated(backendOf):
    assert isinstance(backendOf("--backend", "scripted"), ScriptedBackend)
    assert isinstance(backendOf("--backend", "scripted", "--isolation", "none"), ScriptedBackend)
    said = refusal("--backend", "scripted", "--isolation", "process", "--listen", "tcp:0")
    assert said == "rkllm: --isolation process: the backend scripted is not a blocking one and stays in this process"


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
        (["--listen", "unix:/x", "--listen", "unix:/y", "--listen", "unix:/x"], {}, "--listen: unix:/x is given twice"),
        (["--methods", "rkllm.run"], {}, "--methods: expected a --listen before it"),
        (
            ["--listen", "unix:/x", "--methods", "a", "--methods", "b"],
            {},
            "--methods: given twice for --listen unix:/x",
        ),
        (["--listen", "unix:/x", "--methods", ""], {}, "--methods: expected names of methods, got ''"),
        (["--listen", "unix:/x", "--methods", " , "], {}, "--methods: expected names of methods, got ' , '"),
        (
            ["--backend", "scripted", "--listen", "tcp:0", "--methods", "rkllm.rum"],
            {},
            "--methods: there is no method rkllm.rum.*rkllm.run",
        ),
        (["--backend", "scripted", "--listen", "tcp:0", "--methods", "nothing.*"], {}, r"no method nothing\.\*"),
        (["--backend", "scripted", "--listen", "systemd:x"], {}, "systemd has passed on no listening socket 'x'"),
        (["--allow-uid", ""], {}, "--allow-uid: there is no user ''"),
        (["--allow-uid", "0,no-such-user"], {}, "--allow-uid: there is no user 'no-such-user'"),
        (["--allow-uid", "-1"], {}, "--allow-uid: there is no user '-1'"),
        (["--allow-gid", "no-such-group"], {}, "--allow-gid: there is no group 'no-such-group'"),
        (["--model-root", "/nonexistent"], {}, "--model-root: /nonexistent is no directory"),
        (["--model-root", "/etc/passwd"], {}, "--model-root: /etc/passwd is no directory"),
        (["--model-root", ""], {}, "--model-root:  is no directory"),
        (["--drain", "-1"], {}, "--drain: expected seconds, got '-1'"),
        (["--drain", "soon"], {}, "--drain: expected seconds, got 'soon'"),
        (["--drain", "inf"], {}, "--drain: expected seconds, got 'inf'"),
        (["--isolation", "thread"], {}, "--isolation: expected process or none, got 'thread'"),
        (["--max-memory", "1G"], {}, "--max-memory: expected a whole number from 1 up, got '1G'"),
        *(
            ([f"--{name}", wrong], {}, f"--{name}: expected seconds above 0, got '{wrong}'")
            for name in (
                *("init-limit", "prefill-limit", "prefill-token-limit", "token-limit", "abort-limit", "line-limit"),
                "queue-timeout",
            )
            for wrong in ("0", "-1", "x", "inf", "nan")
        ),
        *(
            ([f"--{name}", wrong], {}, f"--{name}: expected a whole number from 1 up, got '{wrong}'")
            for name in (
                "max-clients",
                "max-queue",
                "max-line",
                "max-reply",
                "max-backlog",
                "max-crashes",
                "max-memory",
            )
            for wrong in ("0", "-1", "x", "1.5", "")
        ),
    ],
)
def test_bad_options(arguments, environ, said):
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


def test_drain_may_be_none_at_all():
    for text in ("0", "0.0", "0e0"):
        assert parsed("--drain", text)["drain"] == 0


def test_second_socket_that_cannot_be(tmp_path):
    """Nothing is left of the first then."""
    (tmp_path / "b").mkdir()
    said = refusal("--backend", "scripted", "--listen", f"unix:{tmp_path}/a", "--listen", f"unix:{tmp_path}/b")
    assert f"{tmp_path}/b" in said
    assert os.listdir(tmp_path) == ["b"]


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
