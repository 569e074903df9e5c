"""The declarations of each family against figures that were measured with C compilers (abi.json, which names them)."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rkllm_twisted.backends.rkllm.families import FAMILIES, declarations
from rkllm_twisted.backends.rkllm.families.declarations import ORDER, compileModules, declarationsFor
from rkllm_twisted.backends.rkllm.releases import RELEASES
from rkllm_twisted.values import Capability

FACTS = json.loads(Path(__file__).with_name("abi.json").read_text())["families"]
UNION = "<anonymous union>"

everyFamily = pytest.mark.parametrize("key", ORDER)


def structs(key):
    """The named structs of a family: name and facts."""
    return {name: facts for name, facts in FACTS[key]["structs"].items() if "::" not in name}


def fieldsOf(key, name):
    """The fields of a struct, each with its offset, size and type; those of an unnamed union as cffi lists them."""
    fields = dict(FACTS[key]["structs"][name]["fields"])
    if UNION in fields:
        start = fields.pop(UNION)[0]
        inside = FACTS[key]["structs"][f"{name}::union"]["fields"]
        fields |= {member: (start + offset, size, type) for member, (offset, size, type) in inside.items()}
    return fields


def blocks(key):
    """The unnamed structs inside the multimodal input: the field that holds each, and its facts."""
    inside = {name.split("::")[1]: facts for name, facts in FACTS[key]["structs"].items() if "::" in name}
    inside.pop("union")
    return inside


def test_families_are_those_of_the_declarations_and_of_the_releases():
    assert tuple(FAMILIES) == ORDER == tuple(FACTS)
    for key, family in FAMILIES.items():
        assert list(family.releases) == FACTS[key]["releases"]
        assert list(family.releases) == [release.version for release in RELEASES if release.family == key]


def test_committed_modules_are_the_generated_ones(tmp_path):
    for made in compileModules(tmp_path):
        committed = Path(declarations.__file__).with_name(made.name)
        assert committed.read_text() == made.read_text(), (
            f"{made.name}: run python -m rkllm_twisted.backends.rkllm.families.declarations"
        )
    assert len(list(tmp_path.iterdir())) == len(list(Path(declarations.__file__).parent.glob("_abi_*.py")))


@everyFamily
def test_sizes_and_offsets_by_cffi(key):
    ffi = FAMILIES[key].ffi
    assert structs(key)
    for name, facts in structs(key).items():
        assert ffi.sizeof(name) == facts["sizeof"], name
        assert ffi.alignof(name) == facts["alignof"], name
        layout = {field: described.offset for field, described in ffi.typeof(name).fields}
        sizes = {field: ffi.sizeof(described.type) for field, described in ffi.typeof(name).fields}
        assert layout == {field: offset for field, (offset, _, _) in fieldsOf(key, name).items()}, name
        assert sizes == {field: size for field, (_, size, _) in fieldsOf(key, name).items()}, name


@everyFamily
def test_types_of_the_fields(key):
    ffi = FAMILIES[key].ffi
    for name in structs(key):
        for field, described in ffi.typeof(name).fields:
            declared, fact = described.type.cname, fieldsOf(key, name)[field][2]
            if field == "reserved":
                declared = declared.partition("[")[0]
            if "::" not in fact:
                assert spelled(declared) == spelled(fact), f"{name}.{field}"


def spelled(type):
    """A type without what does not change its layout: cffi forgets const, and has no name for a function pointer."""
    type = "LLMCallback" if "(*)" in type or type.endswith("Callback") else type
    return type.replace("const ", "").replace("_Bool", "bool").replace(" ", "")


@everyFamily
def test_blocks_of_the_multimodal_input(key):
    ffi = FAMILIES[key].ffi
    fields = dict(ffi.typeof("RKLLMMultiModalInput").fields)
    assert {"image", "video", "audio"} & set(fields) == set(blocks(key))
    for name, facts in blocks(key).items():
        assert ffi.sizeof(fields[name].type) == facts["sizeof"]
        layout = {field: described.offset for field, described in fields[name].type.fields}
        assert layout == {field: offset for field, (offset, _, _) in facts["fields"].items()}


@everyFamily
def test_constants(key):
    ffi = FAMILIES[key].ffi
    for name, values in FACTS[key]["enums"].items():
        type = ffi.typeof(name)
        assert type.relements == values
        assert ffi.sizeof(type) == 4


@everyFamily
def test_functions(key):
    """Their names, how many arguments they take, and of which types."""
    text = re.sub(r"\s+", " ", declarationsFor(key))
    declared = dict(re.findall(r"\w+ (rkllm_\w+)\(([^)]*)\);", text))
    assert set(declared) == set(FACTS[key]["functions"])
    for name, facts in FACTS[key]["functions"].items():
        arguments = [] if declared[name] == "void" else declared[name].split(", ")
        types = [re.sub(r"\w+$", "", argument).strip() for argument in arguments]
        assert [type.replace(" ", "") for type in types] == [type.replace(" ", "") for type in facts["args"]], name


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here; cffi is asked above")
@everyFamily
def test_sizes_and_offsets_by_a_c_compiler(key, tmp_path):
    """The same declarations in a C program: what cffi computes is what a compiler does."""
    lines = []
    for name in structs(key):
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in fieldsOf(key, name):
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
    for block, facts in blocks(key).items():
        for field in facts["fields"]:
            lines.append(f'printf("{block}.{field} %zu\\n", offsetof(RKLLMMultiModalInput, {block}.{field}));')
    source = tmp_path / "layout.c"
    includes = "".join(f"#include <{name}.h>\n" for name in ("stdbool", "stddef", "stdint", "stdio"))
    source.write_text(f"{includes}{declarationsFor(key)}int main(void) {{\n{chr(10).join(lines)}\nreturn 0;\n}}\n")
    subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([str(tmp_path / "layout")], capture_output=True, text=True, check=True).stdout

    expected = {}
    for name, facts in structs(key).items():
        expected[name] = facts["sizeof"]
        expected |= {f"{name}.{field}": offset for field, (offset, _, _) in fieldsOf(key, name).items()}
    for block, facts in blocks(key).items():
        start = FACTS[key]["structs"]["RKLLMMultiModalInput"]["fields"][block][0]
        expected |= {f"{block}.{field}": start + offset for field, (offset, _, _) in facts["fields"].items()}
    assert {name: int(value) for name, value in (line.rsplit(" ", 1) for line in printed.splitlines())} == expected


@everyFamily
def test_capabilities_are_what_the_header_has(key):
    functions, family = FACTS[key]["functions"], FAMILIES[key]
    for capability in (
        Capability.LORA,
        Capability.PROMPT_CACHE,
        Capability.CLEAR_KV_CACHE,
        Capability.KV_CACHE_SIZE,
        Capability.CHAT_TEMPLATE,
        Capability.FUNCTION_TOOLS,
        Capability.CROSS_ATTENTION,
    ):
        assert (capability in family.capabilities) == (f"rkllm_{capability.value}" in functions), capability
    for struct, field in (
        ("RKLLMExtendParam", Capability.BATCHES),
        ("RKLLMInferParam", Capability.KEEP_HISTORY),
        ("RKLLMInferParam", Capability.SAMPLING_PER_RUN),
    ):
        has = field.value in FACTS[key]["structs"][struct]["fields"]
        assert (field in family.capabilities) == has == family.hasField(struct, field.value), field
    modes = FACTS[key]["enums"]["RKLLMInferMode"]
    assert (Capability.GET_LOGITS in family.capabilities) == ("RKLLM_INFER_GET_LOGITS" in modes)
    # Our own limit, where the header has none.
    assert Capability.MAX_NEW_TOKENS_PER_RUN in family.capabilities


def test_families_do_not_share_types():
    """Two of them in one process: each has layouts of its own."""
    assert len({FAMILIES[key].ffi.sizeof("RKLLMInput") for key in ("1.2.0", "1.2.1b1", "1.2.1", "1.3", "1.3.1")}) == 5
