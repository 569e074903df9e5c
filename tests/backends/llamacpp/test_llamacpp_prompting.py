"""What a run says, as the text that the model reads."""

from __future__ import annotations

import json

import pytest

from rkllm_twisted.backends.llamacpp.prompting import Prompting
from rkllm_twisted.errors import InvalidParams, NotSupported
from rkllm_twisted.values import Capability, RKLLMInput
from tests.backends.llamacpp import chat_templates
from tests.backends.llamacpp.chat_templates import CHATML, GEMMA, LAST_ONLY, LLAMA, MISTRAL, OWN_SYSTEM, THINKING

START, END = "<|im_start|>", "<|im_end|>"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}, "tag": {}}}},
}
TOOLS = json.dumps([WEATHER])
EOS = {LLAMA: "<|eot|>", MISTRAL: "</s>", GEMMA: "</turn>"}


def prompting(source, system=None):
    return Prompting(source, ("<s>", EOS.get(source, END)), system)


def written(how, prompt, after=None, **fields):
    """The turn of a prompt: behind nothing, or behind an answer that ended with the text of a token, or with ""."""
    return how.writer(RKLLMInput(prompt_input=prompt, **{"enable_thinking": True, **fields}), after)(prompt)


class TestFirstTurn:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            (CHATML, f"{START}user\nhi{END}\n{START}assistant\n"),
            (LLAMA, "<s><|start|>user<|end|>\n\nhi<|eot|><|start|>assistant<|end|>\n\n"),
            (MISTRAL, "<s>[INST] hi[/INST]"),
            (GEMMA, "<s><turn>user\nhi</turn>\n<turn>model\n"),
            (THINKING, f"{START}user\nhi{END}\n{START}assistant\n<think>\n"),
            (LAST_ONLY, "Q: hi\nA:"),
            (None, "hi"),
        ],
    )
    def test_of_each_template(self, source, expected):
        assert written(prompting(source), "hi") == expected

    def test_has_the_system_prompt(self):
        text = written(prompting(CHATML, "Be brief."), "hi")
        assert text == f"{START}system\nBe brief.{END}\n{START}user\nhi{END}\n{START}assistant\n"

    def test_of_nothing_is_a_turn(self):
        assert written(prompting(CHATML), "") == f"{START}user\n{END}\n{START}assistant\n"

    def test_without_thinking(self):
        assert written(prompting(CHATML), "hi", enable_thinking=False).endswith("<think>\n\n</think>\n\n")


class TestLaterTurn:
    @pytest.mark.parametrize(
        ("source", "ended", "expected"),
        [
            (CHATML, END, f"\n{START}user\nhi{END}\n{START}assistant\n"),
            (LLAMA, "<|eot|>", "<|start|>user<|end|>\n\nhi<|eot|><|start|>assistant<|end|>\n\n"),
            (MISTRAL, "</s>", "[INST] hi[/INST]"),
            (GEMMA, "</turn>", "\n<turn>user\nhi</turn>\n<turn>model\n"),
            (THINKING, END, f"\n{START}user\nhi{END}\n{START}assistant\n<think>\n"),
        ],
    )
    def test_goes_on_behind_the_answer(self, source, ended, expected):
        """So that history and turn are together what the template makes of the conversation."""
        assert written(prompting(source), "hi", after=ended) == expected

    @pytest.mark.parametrize("source", [CHATML, LLAMA, MISTRAL, GEMMA, THINKING])
    def test_ends_an_answer_that_nothing_ended(self, source):
        how, end = prompting(source), EOS.get(source, END)
        assert written(how, "hi", after="") == end + written(how, "hi", after=end)

    def test_behind_another_end_token_keeps_that_of_the_template(self):
        assert written(prompting(CHATML), "hi", after="<|endoftext|>").startswith(f"{END}\n{START}user")

    def test_has_no_system_prompt_again(self):
        text = written(prompting(CHATML, "Be brief."), "hi", after=END)
        assert text == f"\n{START}user\nhi{END}\n{START}assistant\n"

    def test_of_a_template_that_shows_no_earlier_ones_is_as_the_first(self):
        assert written(prompting(LAST_ONLY), "hi", after=END) == "Q: hi\nA:"

    def test_without_a_template_is_the_prompt(self):
        assert written(prompting(None), "hi", after=END) == "hi"

    def test_may_think_where_the_one_before_it_did_not(self):
        how = prompting(CHATML)
        assert written(how, "hi", after=END, enable_thinking=False).endswith("<think>\n\n</think>\n\n")
        assert written(how, "hi", after=END).endswith("assistant\n")


class TestSystem:
    @pytest.mark.parametrize(
        ("source", "prompt", "expected"),
        [
            (CHATML, None, ""),
            (CHATML, "Be brief.", f"{START}system\nBe brief.{END}"),
            (OWN_SYSTEM, None, f"{START}system\nI am Tiny.{END}"),
            (LLAMA, None, "<s>"),
            (LLAMA, "Be brief.", "<s><|start|>system<|end|>\n\nBe brief.<|eot|>"),
            (MISTRAL, None, "<s>"),
            (LAST_ONLY, None, ""),
            (None, None, ""),
        ],
    )
    def test_is_what_comes_before_every_first_turn(self, source, prompt, expected):
        how = prompting(source, prompt)
        assert how.turns.system() == expected
        assert written(how, "hi").startswith(expected)

    @pytest.mark.parametrize(("source", "prompt"), [(chat_templates.BROKEN, None), (GEMMA, "Be brief.")])
    def test_of_a_template_that_cannot_write_is_nothing(self, source, prompt):
        assert prompting(source, prompt).turns.system() == ""

    def test_of_own_strings(self):
        how = prompting(CHATML, "Be brief.")
        how.setOwn("S", "<", ">")
        assert how.turns.system() == "S"

    def test_with_tools_has_them(self):
        how = prompting(CHATML)
        how.setTools("Be brief.", TOOLS, "tool_response")
        assert "weather" in how.turns.system()


class TestOwnStrings:
    def test_are_around_the_prompt(self):
        how = prompting(CHATML, "Be brief.")
        how.setOwn("S", "<", ">")
        assert written(how, "hi") == "S<hi>"
        assert written(how, "hi", after=END) == "<hi>"
        assert written(how, "hi", role="tool") == "S<hi>"

    def test_turn_thinking_off(self):
        """There is no telling how the model would be told (manual 1.3.0, section 3.2.11)."""
        how = prompting(CHATML)
        how.setOwn("", "", ">")
        assert written(how, "hi", enable_thinking=False) == written(how, "hi") == "hi>"

    def test_three_empty_ones_are_the_prompt_as_it_is(self):
        how = prompting(CHATML, "Be brief.")
        how.setOwn("", "", "")
        assert written(how, f"{START}user\nhi") == written(how, f"{START}user\nhi", after=END) == f"{START}user\nhi"
        assert how.turns.system() == ""

    def test_last_ones_count(self):
        how = prompting(CHATML)
        how.setOwn("S", "<", ">")
        how.setOwn("T", "", "")
        assert written(how, "hi") == "Thi"


class TestTools:
    def test_are_shown_by_a_template_that_can(self):
        how = prompting(CHATML, "Be brief.")
        how.setTools("", TOOLS, "tool_response")
        system = f"{START}system\nBe brief.\n<tools>\n{json.dumps(WEATHER)}\n</tools>{END}\n"
        assert written(how, "hi") == f"{system}{START}user\nhi{END}\n{START}assistant\n"

    def test_replace_the_system_prompt(self):
        how = prompting(CHATML, "Be brief.")
        how.setTools("Be wordy.", TOOLS, "")
        assert "Be wordy.\n<tools>" in written(how, "hi")
        assert "Be brief." not in written(how, "hi")
        how.setTools("", TOOLS, "")
        assert "Be brief.\n<tools>" in written(how, "hi")

    def test_are_shown_before_the_last_turn_where_the_template_does_so(self):
        how = prompting(MISTRAL)
        how.setTools("", TOOLS, "")
        assert written(how, "hi") == f"<s>[TOOLS]{json.dumps([WEATHER])}[/TOOLS][INST] hi[/INST]"
        assert written(how, "hi", after="</s>") == f"[TOOLS]{json.dumps([WEATHER])}[/TOOLS][INST] hi[/INST]"

    def test_of_a_template_that_looks_into_them(self):
        how = prompting(chat_templates.BY_PARAMETERS)
        how.setTools("", TOOLS, "")
        assert written(how, "hi").startswith("weather(city, tag)\n")

    @pytest.mark.parametrize(("given", "said"), [("Be brief.", "Be brief.\n\nYou may"), ("", "You may")])
    def test_go_into_the_system_prompt_where_the_template_does_not_show_them(self, given, said):
        how = prompting(LLAMA)
        tool = {"name": "weather", "description": "Grüße"}
        how.setTools(given, json.dumps(tool), "")
        text = written(how, "hi")
        assert text.startswith(f"<s><|start|>system<|end|>\n\n{said}")
        assert '<tools>\n{"name": "weather", "description": "Grüße"}\n</tools><|eot|>' in text
        assert "tools" not in written(how, "hi", after="<|eot|>")

    @pytest.mark.parametrize("source", [CHATML, LLAMA])
    def test_of_an_empty_array_are_none(self, source):
        how = prompting(source)
        how.setTools("", TOOLS, "")
        how.setTools("", "[]", "")
        assert written(how, "hi") == written(prompting(source), "hi")

    @pytest.mark.parametrize("text", ["", "weather", "7", '["weather"]', "[[]]", "null", "[{}", "[" * 5000, "\ud800"])
    @pytest.mark.parametrize("source", [CHATML, None])
    def test_that_are_none_are_refused(self, source, text):
        with pytest.raises(InvalidParams, match=r"\$\.tools: expected functions as a JSON array of objects, got"):
            prompting(source).setTools("", text, "")

    def test_want_a_template(self):
        with pytest.raises(NotSupported, match="no chat template to write tools with") as caught:
            prompting(None).setTools("", TOOLS, "")
        assert caught.value.data == {"needs": Capability.FUNCTION_TOOLS.value}

    def test_want_one_that_takes_a_system_prompt(self):
        how = prompting(GEMMA)
        with pytest.raises(
            NotSupported, match=r"takes no system prompt or no tools .*System role not supported"
        ) as caught:
            how.setTools("", TOOLS, "")
        assert caught.value.data == {"needs": Capability.FUNCTION_TOOLS.value}
        assert written(how, "hi") == "<s><turn>user\nhi</turn>\n<turn>model\n"

    def test_are_not_injected_into_own_strings(self):
        how = prompting(CHATML)
        how.setOwn("S", "<", ">")
        how.setTools("Be wordy.", TOOLS, "")
        assert written(how, "hi") == "S<hi>"

    def test_give_way_to_own_strings(self):
        how = prompting(CHATML)
        how.setTools("Be wordy.", TOOLS, "")
        how.setOwn("S", "<", ">")
        assert written(how, "hi") == "S<hi>"

    def test_do_nothing_without_a_template_where_strings_are_the_clients(self):
        how = prompting(None)
        how.setOwn("", "<", ">")
        how.setTools("", TOOLS, "")
        assert written(how, "hi") == "<hi>"


def asked(result, tag="", source=CHATML, **fields):
    """The turn with the results of functions, behind an answer."""
    how = prompting(source)
    how.setTools("", TOOLS, tag)
    return written(how, result, **{"after": END, "role": "tool", **fields})


class TestResultsOfFunctions:
    def test_are_a_turn_of_their_own_role(self):
        turn = f'\n{START}user\n<tool_response>{{"t": 7}}</tool_response>{END}\n{START}assistant\n'
        assert asked('{"t": 7}') == turn
        assert asked('{"t": 7}', after=None).endswith(turn)

    def test_of_an_array_are_a_turn_each(self):
        text = asked('[{"t": 7, "c": "Köln"}, "sunny", 3, ["a"]]')
        turns = [text.partition("</tool_response>")[0] for text in text.split("<tool_response>")[1:]]
        assert turns == ['{"t": 7, "c": "Köln"}', "sunny", "3", '["a"]']

    @pytest.mark.parametrize("result", ['"sunny"', "7", "null", "[]", " {}"])
    def test_that_are_no_array_are_taken_as_they_are(self, result):
        assert f"<tool_response>{result}</tool_response>" in asked(result)

    @pytest.mark.parametrize("result", ["sunny", "", "{'t': 7}", '["a"', "\ud800", "[" * 5000])
    def test_that_are_no_json_are_refused(self, result):
        with pytest.raises(
            InvalidParams, match=r"\$\.rkllm_input\.prompt_input: expected results of functions as JSON"
        ):
            asked(result)

    def test_are_not_marked_twice(self):
        assert asked("7", "tool_response").count("tool_response>") == 2

    def test_are_marked_with_another_tag(self):
        assert "<tool_response><answer>\n7\n</answer></tool_response>" in asked("7", "answer")

    def test_are_marked_where_the_template_does_not(self):
        text = asked("[7, 8]", "tool_response", LLAMA, after="<|eot|>")
        assert text.count("<tool_response>\n7\n</tool_response>") == text.count("<tool_response>\n8\n") == 1

    def test_are_marked_though_the_template_names_the_role_so(self):
        text = asked("7", "tool", LLAMA, after="<|eot|>")
        assert text.startswith("<|start|>tool<|end|>\n\n<tool>\n7\n</tool><|eot|>")

    def test_are_marked_though_the_system_prompt_speaks_of_the_tag(self):
        how = prompting(LLAMA)
        how.setTools("What stands in <tool_response> is true.", TOOLS, "tool_response")
        assert "<tool_response>\n7\n</tool_response>" in written(how, "7", role="tool")

    def test_are_not_marked_without_a_tag(self):
        assert asked("7", "", LLAMA, after="<|eot|>").startswith("<|start|>tool<|end|>\n\n7<|eot|>")

    def test_are_refused_where_the_template_refuses_them(self):
        with pytest.raises(InvalidParams, match=r"\$\.rkllm_input: expected a turn .*roles must alternate"):
            written(prompting(MISTRAL), "7", role="tool")
