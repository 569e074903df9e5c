"""Records the program in a terminal, and writes it as an SVG that moves: ``make recording``.

Usage: python scripts/recording.py TARGET COMMAND...
Each command is run by a shell in a pseudo-terminal, in a directory of its own with a socket of its own. What it writes
is shown when it was written; the pause before each command is made up, and nothing else is.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

COLUMNS, PAUSE, END = 100, 1.0, 4.0
WIDTH, HEIGHT = 8.4, 19
CONTROL = re.compile(r"\r\n|\r|\n|\x1b\[K|\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """Lines, and when each was how.

    Attributes:
        states: For each line what it was, and since which second.
    """

    def __init__(self) -> None:
        self.states: list[list[tuple[float, str]]] = [[(0.0, "")]]
        self._isReturned = False

    def write(self, text: str, now: float) -> None:
        """Take what a program has written. Colours are left out; a long line goes on in the next, between words."""
        place = 0
        for found in CONTROL.finditer(text):
            self._put(text[place : found.start()], now)
            place = found.end()
            if found[0] in ("\n", "\r\n"):
                self.states.append([(now, "")])
                self._isReturned = False
            elif found[0] == "\r":
                self._isReturned = True
            elif found[0] == "\x1b[K" and self._isReturned:
                self._set("", now)
        self._put(text[place:], now)

    def _put(self, text: str, now: float) -> None:
        if not text:
            return
        whole = text if self._isReturned else self.states[-1][-1][1] + text
        self._isReturned = False
        while len(whole) > COLUMNS:
            space = whole.rfind(" ", 0, COLUMNS + 1)
            end = space if space > 0 else COLUMNS
            self._set(whole[:end], now)
            self.states.append([(now, "")])
            whole = whole[end:].removeprefix(" ")
        self._set(whole, now)

    def _set(self, text: str, now: float) -> None:
        self.states[-1].append((now, text))


def record(commands: list[str]) -> tuple[Screen, float]:
    """Run the commands, and what was seen of them for how many seconds."""
    screen, now = Screen(), 0.0
    with tempfile.TemporaryDirectory() as directory:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "RKLLM_UDS_PATH": f"{directory}/rkllm.sock", "TERM": "xterm"}
        try:
            for command in commands:
                screen.write(f"$ {command}\n", now)
                now += PAUSE
                now = _run(command, directory, environ, screen, now) + PAUSE
        finally:
            pid = Path(directory, "twistd.pid")
            if pid.exists():
                os.kill(int(pid.read_text()), 15)
    screen.write("$ ", now)
    return screen, now + END


def _run(command: str, directory: str, environ: dict[str, str], screen: Screen, now: float) -> float:
    ours, theirs = pty.openpty()
    began = time.monotonic()
    shell = subprocess.Popen(
        ["bash", "-c", command], cwd=directory, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    pending = b""
    while True:
        isOver = shell.poll() is not None  # before the last look; a daemon that goes on keeps the terminal open
        if select.select([ours], [], [], 0 if isOver else 0.05)[0]:
            try:
                pending += os.read(ours, 65536)
            except OSError:  # nobody holds the other end any more
                break
            text = pending.decode(errors="ignore")
            pending = b"" if text.encode() == pending else pending
            if not pending:
                screen.write(text, now + time.monotonic() - began)
        elif isOver:
            break
    os.close(ours)
    if shell.wait():
        raise SystemExit(f"recording: {command!r} ended with {shell.returncode}")
    return now + time.monotonic() - began


def svg(screen: Screen, seconds: float) -> str:
    """The picture. Without animation it shows the end."""
    rows = "\n".join(line for row, states in enumerate(screen.states) for line in _row(row, states))
    width, height = round(COLUMNS * WIDTH) + 20, len(screen.states) * HEIGHT + 20
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<title>A terminal: the daemon is started and asked</title>
<!-- Written by scripts/recording.py from the real program, {seconds:.1f} s -->
<style>text {{ white-space: pre }}</style>
<rect width="100%" height="100%" rx="6" fill="#16161e"/>
<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d5d9e0" xml:space="preserve">
{rows}
</g>
</svg>
"""


def _row(row: int, states: list[tuple[float, str]]) -> list[str]:
    shown = []
    for index, (since, text) in enumerate(states):
        until = states[index + 1][0] if index + 1 < len(states) else None
        if not text or until == since:
            continue
        if until is None:
            look, change = "", f'<set attributeName="visibility" to="hidden" begin="0s" end="{since:.2f}s"/>'
        else:
            look = ' visibility="hidden"'
            change = f'<set attributeName="visibility" to="visible" begin="{since:.2f}s" end="{until:.2f}s"/>'
        place = f'x="10" y="{row * HEIGHT + 24}"'
        shown.append(f"<text {place}{look}>{escape(text, quote=False)}{change if since or until else ''}</text>")
    return shown


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(*record(sys.argv[2:])))
