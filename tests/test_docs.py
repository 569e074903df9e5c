"""Every command and snippet of the README and the docs runs. By the language of its block:

- ``sh``: the blocks of a page in order, in one shell.
- ``python``, ``js``, ``bash``, ``go``: a part of a program in examples/, which has a test of its own.
- ``transcript``: is played with the server, in functions.md by tests/test_functions_page.py.
- ``diff``: applies to the code as it is.
- ``text``: output, and what a test must not run: commands among it are listed here with the reason, and can be parsed;
  requests among it are understood. Of pages whose output is the same each time it is compared.
"""

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
from rkllm_twisted.tap import Options
from rkllm_twisted.testing.peers import Server
from scripts.diagrams import pages
from scripts.pages import PAGES as REFERENCE
from scripts.pages import WRITERS
from tests.end_to_end.daemon import needsModel
from tests.playing import WithGaps, playInMemory

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BLOCK = re.compile(r"^```(\S*)(?: [^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXCERPTS = {"python": ".py .tac", "js": ".js", "bash": ".sh", "go": ".go"}
"""The languages of which every block is a part of an example, and how the names of these end."""
RUN = {"sh", "transcript", "diff", "text", "{toctree}", "{include}", "{literalinclude}", *EXCERPTS}
COMMAND = re.compile(
    r"^(?:\$ )?((?:sudo|rkllm|twistd|pip|python3?|make|cp|cat|kill|journalctl|systemctl) .*)", re.MULTILINE
)
NOT_RUN = {
    "first-token.md": "the tests are run in an environment that was made so (make run)",
    "README.md": "make run is tried on a clean checkout",
    "deploy.md": "writes to the system; the units are tested by tests/packaging",
    "board.md": "needs a board",
    "abi.md": "needs the vendor's library",
    "fuzz.md": "takes minutes; tests/fuzz/test_fuzz.py runs it in short",
}
"""Pages with commands in ``text`` blocks, and why they are not run."""
NOT_THERE = {
    "scripts/fix_freq_rk3588.sh": "of the vendor's repository",
    "tests/contract/test_silent.py": "what a recipe of CONTRIBUTING.md makes",
}
"""Files that pages name and that are not here, and why."""
REPEATABLE = ("several-users.md",)
"""Pages of which the commands say the same each time, and show it in ``text`` blocks."""
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
WITH_BLOCKS = [page for page in PAGES if "```sh" in page.read_text()]
DIAGRAMS = pages()
PLAYED = [page for page in PAGES if "```transcript" in page.read_text() and page.name != "functions.md"]


def nameOf(page):
    """The name of a page in the name of its test."""
    return str(page.relative_to(ROOT).with_suffix(""))


def blocksOf(page):
    """The language and the text of each fenced block."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text())]


def textsOf(page, language):
    """The texts of the blocks of a language."""
    return [text for found, text in blocksOf(page) if found == language]


def proseOf(page):
    """What is between the blocks."""
    return BLOCK.sub("", page.read_text())


def script(page):
    """The commands of a page. ``make`` is not run in them: its targets are tried on a clean checkout and by CI."""
    blocks = textsOf(page, "sh")
    return "set -eu\n" + "".join(re.sub(r"^make .*\n", "", block, flags=re.MULTILINE) for block in blocks)


def commandsIn(text):
    """The commands among an output; one that goes on on the next line is one."""
    return COMMAND.findall(re.sub(r"\\\n\s*", "", text))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=nameOf(page), marks=[needsModel] if page.name in WITH_MODEL else [])
        for page in WITH_BLOCKS
    ],
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
        shown = [line for text in textsOf(page, "text") for line in text.splitlines()]
        assert shown
        assert [line for line in shown if line not in said.splitlines()] == [], said


def test_make_targets_exist():
    named = {target for page in PAGES for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", proseOf(page)):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_empty_page():
    assert all(page.read_text().strip() for page in PAGES)


def test_every_block_is_of_a_language_that_is_run():
    assert {(page.name, language) for page in PAGES for language, _ in blocksOf(page) if language not in RUN} == set()


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_excerpts_are_parts_of_the_examples(page):
    for language, text in blocksOf(page):
        if language in EXCERPTS:
            programs = [path for path in (ROOT / "examples").rglob("*") if path.suffix in EXCERPTS[language].split()]
            assert any(text in path.read_text() for path in programs), f"in no example:\n{text}"


@pytest.mark.parametrize("page", PLAYED, ids=nameOf)
def test_transcripts(page):
    for text in textsOf(page, "transcript"):
        playInMemory(text, WithGaps)


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_commands_that_are_not_run_have_a_reason(page):
    commands = [found for text in textsOf(page, "text") for found in commandsIn(text)]
    assert not commands or page.name in NOT_RUN, commands


def test_every_reason_is_needed():
    assert {page.name for page in PAGES if any(map(commandsIn, textsOf(page, "text")))} == set(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_commands_that_are_not_run_can_be_parsed(page):
    for command in [found for text in textsOf(page, "text") for found in commandsIn(text)]:
        words = shlex.split(command, comments=True)
        if words[0] == "twistd" and "rkllm" in words:
            checkOptions(words[words.index("rkllm") + 1 :])
        elif words[0] == "rkllm":
            parse(words[1:])


def checkOptions(words):
    """Whether twistd would know these options; whether their values are right depends on the machine."""
    options = Options({})
    assert len(words) % 2 == 0, words
    for name in words[0::2]:
        assert f"{name}=" in [f"--{known}" for known in options.longOpt], name


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_conversations_that_are_shortened_are_of_requests_that_are_understood(page):
    for text in textsOf(page, "text"):
        for line in re.findall(r"^--> (\{.*\})$", text, re.MULTILINE):
            checkRequest(msgspec.json.decode(line))
        for line in re.findall(r"^<-- (\{[^…\n]*\})$", text, re.MULTILINE):
            assert msgspec.json.decode(line)["jsonrpc"] == "2.0"


def checkRequest(request):
    """Whether a request is one whose method exists and whose parameters can be read."""
    clock = Clock()
    peer = Server(ScriptedBackend(clock), clock).connect()
    peer.send(request)
    codes = {line["error"]["code"] for line in peer.received() if "error" in line}
    assert not codes & {-32600, -32601, -32602, -32700}


def test_what_is_wrong_is_seen():
    with pytest.raises(AssertionError):
        checkOptions(["--lisen", "unix:/tmp/rkllm.sock"])
    with pytest.raises(AssertionError):
        checkRequest({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": [{"prompt_inputs": "hello"}]})
    with pytest.raises(SystemExit):
        parse(["rnu", "hello"])


def test_names_of_the_package_exist():
    named = {name for page in PAGES for name in re.findall(r"`(rkllm_twisted(?:\.\w+)+)`", page.read_text())}
    assert len(named) > 5
    for name in sorted(named - {"rkllm_twisted.runtime"}):  # which is the name of a logger
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=nameOf)
def test_files_that_are_named_exist(page):
    for path in re.findall(r"`((?:rkllm_twisted|tests|scripts|benchmarks|packaging|docs)/[\w/.-]*)`", proseOf(page)):
        if path not in NOT_THERE:
            assert (ROOT / path).exists() or (page.parent / path).exists(), path


def test_findings_of_the_doctor_are_on_the_page():
    sources = "".join(path.read_text() for path in Path(DOCTOR).parent.glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"([^"]+)"', sources)) | {"backend NAME"}
    table = (ROOT / "docs/howto/troubleshooting.md").read_text().partition("| finding | ")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| ([\w ]+?) \|", table, re.MULTILINE)) == names


@pytest.mark.parametrize("name", WRITERS)
def test_generated_pages(name):
    """Else: make reference"""
    assert (REFERENCE / name).read_text() == "\n".join(WRITERS[name]()) + "\n"


@pytest.mark.parametrize("path", DIAGRAMS, ids=nameOf)
def test_diagrams_are_of_what_the_server_does(path):
    """Else: make reference"""
    assert path.read_text() == "\n".join(DIAGRAMS[path]) + "\n"


def test_every_page_is_on_the_site():
    listed = set(re.findall(r"^(?:[^\n]*<)?([\w-]+/[\w-]+)>?$", (ROOT / "docs/index.md").read_text(), re.MULTILINE))
    assert {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")} == {
        "index",
        *listed,
    }


def test_site(tmp_path):
    pytest.importorskip("sphinx", reason="the extra docs is not installed; make docs builds the site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(ROOT / "docs")]
    done = subprocess.run([*command, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "IModelBackend" in (tmp_path / "site/api/rkllm_twisted.interfaces.html").read_text()
