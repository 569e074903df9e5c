"""What is done in the call of a signal, and how the log files are opened again."""

import gc
import signal
import subprocess
import sys
import weakref

import pytest
from twisted.python.logfile import LogFile

from rkllm_twisted import signals


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
