"""What a shell completes, by the shells themselves."""

import os
import pty
import shutil
import signal
import subprocess
import time

import pytest

from rkllm_twisted.cli.completion import script

CASES = [
    (["rkllm", "st"], ["status"]),
    (["rkllm", "--vers"], ["--version"]),
    (["rkllm", "--socket", "run", "ch"], ["chat"]),
    (["rkllm", "run", "--top"], ["--top-k", "--top-p"]),
    (["rkllm", "run", "--temp"], ["--temperature"]),
    (["rkllm", "run", "--stats", "--js"], ["--json"]),
    (["rkllm", "call", "rkllm.is"], ["rkllm.is_running"]),
    (["rkllm", "completion", "z"], ["zsh"]),
    (["rkllm", "detect", "/etc/passw"], ["/etc/passwd"]),
    (["rkllm", "run", "--model", "/etc/passw"], ["/etc/passwd"]),
]


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The file of each shell."""
    directory = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        (directory / shell).write_text(f"{script(shell)}\n")
    return directory


@needs("bash")
@pytest.mark.parametrize(("line", "expected"), CASES, ids=lambda value: " ".join(value))
def test_bash(line, expected, scripts):
    # Where the function says nothing, bash completes files: what "complete -o default" asks for.
    commands = f"""source {scripts}/bash
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _rkllm
        [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "--norc", "-uc", commands, "-", *line], capture_output=True, text=True)
    assert (sorted(set(done.stdout.split()) - {"/etc/passwd-"}), done.stderr) == (expected, "")


@needs("bash")
def test_bash_completes_nothing_for_a_number(scripts):
    commands = f'source {scripts}/bash; COMP_WORDS=("$@") COMP_CWORD=3; _rkllm; echo "${{#COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", commands, "-", "rkllm", "run", "--top-k", ""], capture_output=True, text=True)
    assert done.stdout == "0\n"


class Zsh:
    """An interactive zsh in a terminal."""

    def __init__(self, file):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb", "COLUMNS": "200"})
        self.send(f"autoload -U compinit; compinit -D; source {file}; PS1=; echo re''ady\n")
        self.readUntil("ready\r\n")

    def send(self, text):
        os.write(self.terminal, text.encode())

    def readUntil(self, expected):
        """Read until something was written; it has to come within 20 s."""
        text = ""
        ends = time.monotonic() + 20
        while expected not in text:
            assert time.monotonic() < ends, text
            text += os.read(self.terminal, 65536).decode()

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@needs("zsh")
def test_zsh(scripts):
    """Each line is completed as far as there is one way to go on."""
    zsh = Zsh(scripts / "zsh")
    for line, expected in CASES:
        if len(expected) == 1 and expected != ["/etc/passwd"]:
            zsh.send(f"\x15{' '.join(line)}\t")
            zsh.readUntil(" ".join([*line[:-1], expected[0]]))
    zsh.close()
