"""The stand-in and the C program that drives it, for the tests: what it is told to do, and what came of it."""

import json
import os
import subprocess
from typing import NamedTuple

from tests.native.build import buildDriver, buildStandin

RECENT = ("1.2.1", "1.3", "1.3.1")
WRAPPER = os.environ.get("STANDIN_WRAPPER", "").split()
"""A program that runs the driver, such as valgrind, and exits with 99 if it found something."""


started = []
"""The processes of the test that runs; what is still alive at its end is killed."""


class Outcome(NamedTuple):
    """What the driver did."""

    lines: list[str]
    status: int
    errors: str
    log: list[dict]

    @property
    def violations(self):
        return [entry["what"] for entry in self.log if entry["event"] == "violation"]

    @property
    def texts(self):
        """The texts of the callbacks with a token."""
        tokens = [line for line in self.lines if line.startswith(("NORMAL", "WAITING"))]
        return [line.split(" ", 2)[2].removesuffix(" (another thread)") for line in tokens]

    @property
    def answer(self):
        return "".join(text[1:-1] for text in self.texts if text != "NULL")


class Standin:
    """The library of one family and its driver."""

    def __init__(self, family, directory):
        self.family = family
        self.directory = directory
        self.library = buildStandin(family, directory)
        self.driver = buildDriver(family, self.library)

    def start(self, *orders, script="", model="", control=None, path="model.rkllm"):
        """The driver as a process; the model is loaded first unless the orders begin with ``bare``."""
        log = self.directory / "log"
        log.write_text("")
        (self.directory / "model.rkllm").write_text(f"RKLLM-STANDIN {model}\n")
        orders = orders[1:] if orders[:1] == ("bare",) else ("init", *orders)
        environment = {**os.environ, "RKLLM_STANDIN": script, "RKLLM_STANDIN_LOG": str(log)}
        if control is not None:
            (self.directory / "control").write_text(control)
            environment["RKLLM_STANDIN_CONTROL"] = str(self.directory / "control")
        process = subprocess.Popen(
            [*WRAPPER, str(self.driver), "set", "model_path", str(self.directory / path), *map(str, orders)],
            env=environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )
        started.append(process)
        return process

    def drive(self, *orders, **settings):
        """Let the driver run to its end."""
        return self.outcome(self.start(*orders, **settings))

    def outcome(self, process):
        output, errors = process.communicate(timeout=120)
        assert process.returncode != 99, errors
        return Outcome(output.splitlines(), process.returncode, errors, self.log())

    def log(self):
        return [json.loads(line) for line in (self.directory / "log").read_text().splitlines()]


def run(*orders):
    """Orders that run a prompt and let go of the model."""
    return (*orders, "run", "destroy")


def idOf(word):
    """The token id of a word, white space before it included, in a vocabulary of 1000."""
    number = 14695981039346656037
    for byte in word.encode():
        number = (number ^ byte) * 1099511628211 % 2**64
    return number % (1000 - 16) + 16


def waitForEvent(standin, process, event):
    """The log has no way to wake a reader: look until it is there, while the process lives."""
    while event not in standin.log():
        assert process.poll() is None
