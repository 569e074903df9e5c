"""The tests from the wheel, over Pythons and Twisteds: ``make matrix``, or ``nox --list`` for one of them.

An interpreter that is not on this machine is skipped, with a message.
"""

import os
import tempfile
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.needs_version = ">=2025.5"

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
LOWEST = "24.3.0"
"""The oldest Twisted supported, as setup.cfg has it; a test compares the two."""
TESTS = os.environ.get(
    "NOX_TESTS", "tests/wire tests/scheduling tests/methods tests/contract tests/end_to_end tests/typing"
)


@nox.session(python=PYTHONS)
@nox.parametrize("twisted", ["lowest", "newest"])
def tests(session: nox.Session, twisted: str) -> None:
    """Build the wheel, install it into an empty environment, and test that."""
    wheels = Path(session.create_tmp()) / "wheels"
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(wheels), silent=True)
    wheel = max(wheels.absolute().glob("*.whl"), key=os.path.getmtime)
    session.install(
        f"Twisted=={LOWEST}" if twisted == "lowest" else "Twisted", f"rkllm-twisted[cpu,test] @ {wheel.as_uri()}"
    )
    session.run("python", "-c", "import twisted; print('Twisted', twisted.__version__)")
    # From the tests' own copy: the package that is tested is the installed one.
    session.cd(copyOfTests(Path(session.create_tmp())))
    # nox's own directory for temporary files is too deep for the path of a socket, which has 107 bytes.
    environ = {"TMPDIR": tempfile.gettempdir()}
    session.run("python", "-m", "pytest", "--quiet", *TESTS.split(), *session.posargs, env=environ)


def copyOfTests(directory: Path) -> Path:
    """The tests and what they read, without the package."""
    import shutil

    root = Path(__file__).parent
    target = directory / "checkout"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in ("tests", "examples", "docs", "scripts", "packaging", "benchmarks", "requirements"):
        shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*root.glob("*.md"), root / "setup.cfg", root / "pyproject.toml", root / "LICENSE", root / "Makefile"):
        shutil.copy(path, target)
    return target
