"""The file that is built: what it exports, and what it says of itself."""

import subprocess

import pytest

from tests.native.build import buildStandin
from tests.native.driving import RECENT

FUNCTIONS = (
    "createDefaultParam init destroy run run_async abort is_running load_lora load_prompt_cache release_prompt_cache"
)
SINCE_1_2_0 = " clear_kv_cache set_chat_template"
SINCE_1_2_1 = " get_kv_cache_size set_function_tools set_cross_attn_params"


def test_exports_the_functions_of_its_family_and_nothing_else(each):
    output = subprocess.run(["nm", "-D", "--defined-only", each.library], capture_output=True, text=True, check=True)
    exported = {
        line.split()[-1] for line in output.stdout.splitlines() if " T " in line or " D " in line or " B " in line
    }
    expected = FUNCTIONS + (SINCE_1_2_0 if each.family != "1.1" else "")
    expected += SINCE_1_2_1 if each.family in RECENT else ""
    assert exported == {f"rkllm_{name}" for name in expected.split()}


def test_names_its_release_in_the_file_and_in_the_log_line(each):
    release = {"1.1": "1.1.4", "1.2.1": "1.2.3", "1.3": "1.3.0"}.get(each.family, each.family)
    assert f"RKLLM SDK (version: {release} | target: Linux | build: ".encode() in each.library.read_bytes()
    assert f"I rkllm: rkllm-runtime version: {release}, " in each.drive().errors


def test_another_release_of_the_family_can_be_asked_for(tmp_path):
    library = buildStandin("1.2.1", tmp_path, '-DSTANDIN_VERSION="1.2.2"')
    assert b"(version: 1.2.2 |" in library.read_bytes()


def test_unknown_family(tmp_path):
    with pytest.raises(ValueError, match=r"1\.0: unknown family"):
        buildStandin("1.0", tmp_path)


def test_wrong_source_is_an_error_that_says_what_the_compiler_said(tmp_path):
    with pytest.raises(RuntimeError, match="nonsense"):
        buildStandin("1.3", tmp_path, "-fnonsense")
