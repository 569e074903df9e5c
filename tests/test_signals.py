"""What signals mean, to real daemons and in detail."""

import gc
import signal
import subprocess
import sys
import weakref

import pytest
from twisted.python.logfile import LogFile

from rkllm_twisted import signals
from tests.end_to_end.daemon import BIN, Daemon


class LoggingDaemon(Daemon):
    """A daemon that logs to a file, and whose generations take their time."""

    def __init__(self, directory, *arguments):
        self.logFile = directory / "log"
        self.logFile.touch()
        backend = ("--backend", "scripted:interval=30", "--model", "any")
        runner = ("twistd", "-n", "--pidfile=", f"--logfile={self.logFile}")
        super().__init__(directory, *backend, *arguments, runner=runner)
        self.readUntil("Model any loaded")

    def readUntil(self, what):
        """Until the file has a text. ``tail`` follows it by its name, also when it is another file by then."""
        follow = ["tail", "-n", "+1", "--follow=name", "--retry", f"--pid={self.process.pid}", str(self.logFile)]
        with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tail:
            found = next((line for line in tail.stdout if what in line), None)
            tail.kill()
        assert found is not None, f"{what!r} is not in {self.logFile.read_text()}"


@pytest.fixture
def daemon(tmp_path):
    """Starts daemons; they are killed after the test."""
    started = []

    def start(*arguments, kind=LoggingDaemon):
        started.append(kind(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
)
def test_second_signal_ends_at_once(daemon, first, second):
    """Also while a generation drains for an hour."""
    server = daemon("--drain", "3600")
    client = server.connect()
    client.send("rkllm.run", {"prompt_input": "one"})
    client.send("rkllm.run", {"prompt_input": "two"}, id=2)
    client.ask("rkllm.is_running", id=3)  # so both have been read
    server.process.send_signal(first)
    assert client.receive()["error"]["code"] == -32003  # so the first signal has been taken
    assert server.process.poll() is None
    server.process.send_signal(second)
    assert server.process.wait(30) == -second


def test_hangup_reopens_the_log_and_nothing_else(daemon, tmp_path):
    server = daemon()
    client = server.connect()
    client.send("rkllm.run", {"prompt_input": "one"})
    assert client.ask("rkllm.is_running", id=2)["result"]["is_running"] is True
    moved = server.logFile.rename(tmp_path / "log.1")
    before = moved.read_text()
    server.process.send_signal(signal.SIGHUP)
    server.readUntil("reopened")
    assert moved.read_text() == before
    assert client.ask("rkllm.is_running", id=3)["result"]["is_running"] is True
    status = client.ask("server.status", id=4)["result"]
    assert (status["counters"]["models_loaded"], status["model"]) == (1, "any")
    assert server.stop() == -signal.SIGTERM
    assert "Server Shut Down" in server.logFile.read_text()


def test_hangup_without_a_log_file(daemon):
    """The log is on standard output; the daemon goes on."""
    server = daemon("--backend", "scripted", kind=Daemon)
    client = server.connect()
    assert "result" in client.ask("rkllm.is_running")
    server.process.send_signal(signal.SIGHUP)
    assert "result" in client.ask("rkllm.is_running")
    client.close()
    assert server.stop() == -signal.SIGTERM
    assert "Traceback" not in "".join(server.log)


def test_exit_status_of_a_start_that_fails(tmp_path):
    (tmp_path / "s").mkdir()
    twistd = [str(BIN / "twistd"), "-n", "--pidfile=", "rkllm"]
    options = ["--backend", "scripted", "--listen", f"unix:{tmp_path}/s"]
    done = subprocess.run([*twistd, *options], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


# The log files, in detail


@pytest.fixture
def logFile(tmp_path):
    file = LogFile("log", str(tmp_path))
    yield file
    file.close()


def test_log_file_that_was_moved(logFile, tmp_path):
    logFile.write("before\n")
    (tmp_path / "log").rename(tmp_path / "log.1")
    signals.reopenLogs()
    logFile.write("after\n")
    assert ((tmp_path / "log.1").read_text(), (tmp_path / "log").read_text()) == ("before\n", "after\n")


def test_log_file_that_cannot_be_opened_stays(tmp_path, flushErrors):
    directory = tmp_path / "logs"
    directory.mkdir()
    file = LogFile("log", str(directory))
    directory.rename(tmp_path / "moved")
    signals.reopenLogs()
    [failure] = flushErrors(RuntimeError)
    assert "cannot be reopened" in str(failure.value)
    file.write("still\n")
    file.close()
    assert (tmp_path / "moved/log").read_text() == "still\n"


def test_log_file_that_was_closed_is_left_alone(tmp_path):
    file = LogFile("log", str(tmp_path))
    file.close()
    (tmp_path / "log").unlink()
    signals.reopenLogs()
    assert file.closed
    assert not (tmp_path / "log").exists()


def test_object_that_cannot_say_what_it_is(logFile):
    """Such as a weak reference whose object is gone."""

    class Gone:
        pass

    proxy = weakref.proxy(Gone())
    gc.collect()
    with pytest.raises(ReferenceError):
        isinstance(proxy, int)
    signals.reopenLogs()
    assert not logFile.closed


# What is done in the call of a signal


def ran(*lines):
    """A process that has run these lines."""
    script = "\n".join(["import os, signal", "from rkllm_twisted import signals", *lines])
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


def test_log_is_reopened_in_the_reactors_turn():
    """And not in the middle of whatever the signal came into."""
    done = ran(
        "class Reactor:",
        "    def callFromThread(self, called): print(called.__name__)",
        "signals.install(Reactor())",
        "os.kill(os.getpid(), signal.SIGHUP)",
    )
    assert (done.stdout, done.returncode) == ("reopenLogs\n", 0), done.stderr


def test_first_signal_is_handed_on_and_the_second_kills():
    done = ran(
        "signal.signal(signal.SIGTERM, lambda number, frame: print('stop', number, flush=True))",
        "signals.install(None)",
        "for each in 'first', 'second':",
        "    os.kill(os.getpid(), signal.SIGTERM)",
        "print('alive')",
    )
    assert (done.stdout, done.returncode) == ("stop 15\n", -signal.SIGTERM), done.stderr


def test_ignored_signal_stays_ignored():
    """Whoever starts a program in the background may have it ignore SIGINT."""
    done = ran(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signals.install(None)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "print('alive')",
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr
