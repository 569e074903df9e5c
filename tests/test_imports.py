"""Who may import whom: the directions of the house, kept by walking the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rkllm_twisted"

FLOOR = {"errors", "ranges", "values"}
MEETING = FLOOR | {"interfaces"}
TWISTED_WITHOUT_REACTOR = {"twisted.internet.defer", "twisted.logger", "twisted.python"}

# For each room: what of ours it may import, and whether it may import Twisted (None: nothing of it; a set: only these).
# A room that is not listed may import everything.
RULES = {
    "errors": (set(), None),
    "ranges": ({"errors"}, None),
    "values": ({"errors", "ranges", "values"}, None),
    "interfaces": (FLOOR, {"twisted.internet.defer", "twisted.plugin", "twisted.python"}),
    "wire": (MEETING | {"wire"}, None),
    "scheduling": (MEETING | {"scheduling"}, None),
    "methods": (MEETING | {"wire", "scheduling", "methods"}, TWISTED_WITHOUT_REACTOR),
    "backends": (MEETING | {"backends"}, {"twisted"}),
    "sockets": (MEETING | {"wire"}, {"twisted"}),
    "access": (MEETING | {"wire"}, {"twisted"}),
    "server": (MEETING | {"wire", "methods", "sockets", "access"}, {"twisted"}),
    "client": (MEETING | {"wire", "methods", "client"}, {"twisted"}),
}
STANDARD = set(sys.stdlib_module_names) | {"msgspec", "zope"}
OTHERS = {
    "rkllm_twisted.backends.llamacpp": {"cffi", "_cffi_backend", "jinja2"},
    "rkllm_twisted.backends.rkllm": {"cffi", "_cffi_backend"},
    "rkllm_twisted.testing": {"pytest", "pytest_twisted"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def room(name):
    return name.split(".")[1] if "." in name else ""


def imported(tree):
    """The full names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = list(modules())


@pytest.mark.parametrize(("name", "tree"), MODULES, ids=[name for name, _ in MODULES])
def test_directions(name, tree):
    ours, twisted = RULES.get(room(name), (None, {"twisted"}))
    if name.startswith("rkllm_twisted.backends.isolated."):
        ours = ours | {"wire"}  # a child spells the results of its runs itself
    others = next((allowed for prefix, allowed in OTHERS.items() if name.startswith(prefix)), set())
    for target in imported(tree):
        top = target.split(".")[0]
        if top == "rkllm_twisted":
            assert ours is None or room(target) in ours or target.startswith("rkllm_twisted._version"), (
                f"{name} imports {target}"
            )
            assert room(target) != "testing" or room(name) == "testing", f"{name} imports {target}"
        elif top == "twisted":
            allowed = twisted is not None and any(f"{target}.".startswith(f"{one}.") for one in twisted)
            assert allowed, f"{name} imports {target}"
        else:
            assert top in STANDARD | others | {"__future__"}, f"{name} imports {target}"


@pytest.mark.parametrize(("name", "tree"), MODULES, ids=[name for name, _ in MODULES])
def test_no_backend_imports_another(name, tree):
    if room(name) != "backends" or name.count(".") < 2:
        return
    own = name.split(".")[2]
    shared = {"utf8", "threaded", "endings", "unfinished"}
    for target in imported(tree):
        if target.startswith("rkllm_twisted.backends."):
            assert target.split(".")[2] in {own, *shared} or target.count(".") == 2, f"{name} imports {target}"


@pytest.mark.parametrize(("name", "tree"), MODULES, ids=[name for name, _ in MODULES])
def test_reactor_is_imported_inside_functions_only(name, tree):
    for node in tree.body:
        for target in imported(ast.Module([node], [])) if isinstance(node, ast.Import | ast.ImportFrom) else ():
            assert target != "twisted.internet.reactor", f"{name} imports the reactor when it is imported"


def test_daemon_imports_nothing_heavy_before_it_is_needed():
    heavy = {"numpy", "jinja2", "cffi", "_cffi_backend", "xllamacpp", "llama_cpp", "sphinx", "docutils", "matplotlib"}
    heavy.add("rkllm_twisted.cli")
    script = (
        "import sys; from rkllm_twisted.tap import Options, makeService; options = Options(); "
        "options.parseOptions(['--backend', 'scripted']); makeService(options); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_of_twisted_is_shipped():
    """A twisted/__init__.py or twisted/plugins/__init__.py of ours would take the installed Twisted's place."""
    assert [str(path.relative_to(ROOT)) for path in (ROOT / "twisted").rglob("__init__.py")] == []
