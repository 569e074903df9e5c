"""What the README and the docs show is run: commands and Python in the order of the page, conversations by the player.

What each kind of fence is for:

- ``sh`` runs; the blocks of a page in order, in one shell. ``python`` runs in its place between them.
- ``transcript`` is played with the backend in memory (those of functions.md with llama.cpp, by test_functions_page.py).
- ``mermaid`` and ``{…}`` are for the site, and are looked at when that is built.
- ``text`` is output, and what only a board or root can do; what is like a command in it is parsed at least.
- Any other language must be word for word in a file of examples/, which has tests of its own.
"""

import importlib.util
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from twisted.internet.task import Clock

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.cli.arguments import parse
from rkllm_twisted.cli.doctor import __file__ as DOCTOR
from rkllm_twisted.errors import BY_CODE
from rkllm_twisted.tap import Options
from rkllm_twisted.testing.peers import Server
from tests.end_to_end.daemon import needsModel
from tests.test_transcripts import play

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_MODEL = (
    "README.md",
    "first-token.md",
    "lora.md",
    "logits.md",
    "embeddings.md",
    "prompt-cache.md",
    "tools.md",
    "multi-turn.md",
    "several-inputs.md",
)
# What comes out of their commands is the same each time, and what the page shows of it is compared.
REPEATABLE = ("errors.md", "several-users.md", "embed.md", "from-flask.md")
PLAYED_ELSEWHERE = ("functions.md",)
EXAMPLES = [path for path in sorted((ROOT / "examples").rglob("*")) if path.is_file() and path.suffix != ".pyc"]
COMMANDS = re.compile(r"^(?:\$ )?(twistd|rkllm|python3?|pip|sudo|systemctl|cp|make|cat) ")
# Commands that are shown and do not run, each page with the reason.
NOT_RUN = {
    "README.md": "what a run of `make run` looks like, which CI runs",
    "first-token.md": "makes a virtual environment, as the Makefile does; at the end, needs a board",
    "board.md": "needs a board, the vendor's library, or root",
    "deploy.md": "needs root and systemd; test_systemd_units.py looks at the units, this one at the options",
    "abi.md": "needs the vendor's library",
    "fuzz.md": "what came out of a run that takes minutes",
}


def fences(page):
    """The fenced blocks of a page, as (language, text), but for those that are word for word in an example."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language == "text" or not isOfAnExample(text)]


def isOfAnExample(text):
    return any(text in path.read_text() for path in EXAMPLES)


def blocks(*languages):
    """The blocks in one of some languages, each with its page."""
    return [
        pytest.param(page, text, id=f"{page.stem} {number}")
        for page in PAGES
        for number, (language, text) in enumerate(fences(page))
        if language in languages
    ]


def script(page):
    """The commands of a page. ``make`` is not run in them: its targets are tried on a clean checkout and by CI."""
    found = [(language, text) for language, text in fences(page) if language in ("sh", "python")]
    commands = [
        text if language == "sh" else f"python - <<'PYTHON_BLOCK'\n{text}PYTHON_BLOCK\n" for language, text in found
    ]
    return "set -eu\n" + "".join(re.sub(r"^make .*\n", "", block, flags=re.MULTILINE) for block in commands)


WITH_BLOCKS = [page for page in PAGES if any(language in ("sh", "python") for language, _ in fences(page))]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[needsModel] if page.name in WITH_MODEL else []) for page in WITH_BLOCKS],
)
def test_commands(page, tmp_path):
    commands = script(page)
    missing = [tool for tool in ("nc", "node") if f" {tool} " in commands and shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RKLLM_UDS_PATH": str(tmp_path / "rkllm.sock"),
    }
    # To files and not to pipes, which a daemon that a failed script leaves would hold open.
    with open(tmp_path / "output", "w+") as output:
        shell = subprocess.run(["bash", "-c", commands], cwd=tmp_path, env=environment, stdout=output, stderr=output)
        output.seek(0)
        said = output.read()
    if (tmp_path / "twistd.pid").exists():
        subprocess.run(["kill", (tmp_path / "twistd.pid").read_text()])
    assert shell.returncode == 0, said
    if page.name in REPEATABLE:
        shown = [line for language, text in fences(page) if language == "text" for line in text.splitlines()]
        assert shown
        assert [line for line in shown if line not in said.splitlines()] == [], said


@pytest.mark.parametrize(
    ("page", "text"), [block for block in blocks("transcript") if block.values[0].name not in PLAYED_ELSEWHERE]
)
def test_transcripts_are_what_happens(page, text):
    play(text)


@pytest.mark.parametrize(("page", "text"), [block for block in blocks("text") if "--> {" in block.values[1]])
def test_requests_in_shortened_conversations_are_understood(page, text):
    for line in re.findall(r"^--> (\{.*\})$", text, re.MULTILINE):
        checkRequest(msgspec.json.decode(line))
    for line in re.findall(r"^<-- (\{[^…\n]*\})$", text, re.MULTILINE):
        assert msgspec.json.decode(line)["jsonrpc"] == "2.0"


def checkRequest(request):
    """Whether a request is one whose method exists and whose parameters can be read."""
    clock = Clock()
    server = Server(ScriptedBackend(clock), clock)
    peer = server.connect()
    peer.send(request)
    refused = [line["error"] for line in peer.received() if "error" in line]
    assert [error for error in refused if error["code"] in (-32600, -32601, -32602, -32700)] == []


def commandsIn(text):
    """The lines of an output that are commands, without their prompt; one that goes on on the next line is one."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.removeprefix("$ ") for line in joined.splitlines() if COMMANDS.match(line)]


@pytest.mark.parametrize(("page", "text"), [block for block in blocks("text") if commandsIn(block.values[1])])
def test_commands_that_are_only_shown_have_a_reason_and_can_be_parsed(page, text):
    assert page.name in NOT_RUN
    for command in commandsIn(text):
        words = shlex.split(command, comments=True)
        if words[0] == "twistd" and "rkllm" in words:
            checkOptions(words[words.index("rkllm") + 1 :])
        elif words[0] == "rkllm":
            parse(words[1:])


def checkOptions(words):
    """Whether twistd would know these options; whether they are right depends on the machine."""
    options = Options({})
    for name in words[0::2]:
        assert name.startswith("--"), words
        assert name.removeprefix("--") + "=" in options.longOpt, name
    assert len(words) % 2 == 0, words


def test_every_reason_is_needed():
    pages = {page.name for page in PAGES for language, text in fences(page) if language == "text" and commandsIn(text)}
    assert pages == set(NOT_RUN)


def test_options_that_do_not_exist_are_seen():
    with pytest.raises(AssertionError):
        checkOptions(["--lisen", "unix:/tmp/rkllm.sock"])
    with pytest.raises(AssertionError):
        checkRequest({"jsonrpc": "2.0", "id": 1, "method": "rkllm.fly"})
    with pytest.raises(SystemExit):
        parse(["rnu", "hello"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_fence_is_of_a_kind_that_is_looked_at(page):
    for language, text in fences(page):
        known = language in ("sh", "python", "transcript", "text", "mermaid") or language.startswith("{")
        assert known, f"a block of {language!r}: {text[:60]!r}"


def test_make_targets_exist():
    named = {target for page in PAGES for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_names_of_the_package_exist():
    named = {name for page in PAGES for name in re.findall(r"`(rkllm_twisted(?:\.\w+)+)`", page.read_text())}
    assert len(named) > 10
    logged = {"rkllm_twisted.runtime"}  # the name of a logger
    for name in sorted(named - logged):
        pkgutil.resolve_name(name)


def test_files_that_are_named_exist():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for path in re.findall(r"`((?:rkllm_twisted|tests|scripts|benchmarks|packaging|docs)/[\w/.-]*)`", prose):
            if path != "scripts/fix_freq_rk3588.sh":  # of the vendor's repository
                assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_no_empty_page():
    assert all(page.read_text().strip() for page in PAGES)


def test_every_page_is_in_the_index():
    """Without a table of contents that the repository's viewer does not show."""
    index = (ROOT / "docs/index.md").read_text()
    linked = set(re.findall(r"\]\(([^)#:]+)\)", index)) | {"index.md"}
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]} - linked == set()


def test_page_of_the_errors_is_that_of_the_code():
    page = (ROOT / "docs/reference/errors.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| -32")]
    assert {tuple(row[:4]) for row in rows} == {
        (str(code), summaryOf(kind), f"`{kind.__name__}`", "yes" if kind.retryable else "no")
        for code, kind in BY_CODE.items()
    }
    for row in rows:
        data = set(re.findall(r"``(\w+)``", BY_CODE[int(row[0])].__doc__.partition("Data:")[2]))
        assert data <= set(re.findall(r"`(\w+)`", row[4])), row[0]


def summaryOf(kind):
    return kind.__doc__.partition("\n")[0]


def test_page_of_the_doctor_has_each_of_its_findings():
    sources = "".join(path.read_text() for path in Path(DOCTOR).parent.glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"([^"]+)"', sources)) | {"backend NAME"}
    page = (ROOT / "docs/howto/troubleshoot.md").read_text()
    table = page.partition("| finding | ")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| ([\w ]+?) \|", table, re.MULTILINE)) == names


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "sphinxcontrib")),
    reason="the extra docs is not installed: make docs",
)
def test_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    built = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()
