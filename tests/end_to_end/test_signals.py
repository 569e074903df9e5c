"""What signals mean to real daemons."""

import signal
import subprocess

import pytest

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


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
)
def test_second_signal_ends_at_once(daemon, first, second):
    """Also while a generation drains for an hour."""
    server = daemon("--drain", "3600", kind=LoggingDaemon)
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
    server = daemon(kind=LoggingDaemon)
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
    server = daemon("--backend", "scripted")
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
