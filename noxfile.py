"""The wheel of ``make release-check`` in empty environments: each Python, with the lowest and the newest Twisted.

Run by ``make matrix``. A Python that is not there is skipped, and said to be; those of pyenv are found.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, pyenv.glob("versions/*/bin"))])


def lowestTwisted() -> str:
    """The lowest Twisted that setup.cfg allows."""
    [lowest] = re.findall(r"^ +Twisted>=(\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    return str(lowest)


@nox.session(python=PYTHONS)
@nox.parametrize("twisted", ["lowest", "newest"])
def wheel(session: nox.Session, twisted: str) -> None:
    """Install the wheel and serve with it."""
    [built] = (ROOT / "dist").glob("rkllm_twisted-*-py3-none-any.whl")
    session.install(str(built), f"Twisted=={lowestTwisted()}" if twisted == "lowest" else "Twisted")
    session.chdir(session.create_tmp())  # nothing of the checkout is found there
    session.env["PYTHONPATH"] = ""
    session.run("python", "-m", "pip", "check")
    session.run("python", str(ROOT / "scripts/smoke.py"))
