"""Chat templates."""

from __future__ import annotations

from datetime import datetime

import pytest

from rkllm_twisted.backends.llamacpp.template import ChatTemplate
from rkllm_twisted.errors import InvalidParams, NotSupported
from tests.tiny_model import CHAT_TEMPLATE


def test_model_without_one():
    assert ChatTemplate(None).render("as it is") == "as it is"


def test_turn():
    text = ChatTemplate(CHAT_TEMPLATE).render("hi", enableThinking=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_system_prompt_of_our_own():
    text = ChatTemplate(CHAT_TEMPLATE, systemPrompt="Be brief.").render("hi", enableThinking=True)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi")


def test_empty_prompt_is_a_turn():
    assert "<|im_start|>user\n<|im_end|>" in ChatTemplate(CHAT_TEMPLATE).render("")


def test_tokens_have_names():
    assert ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", bos="<s>", eos="</s>").render(
        "x"
    ) == ("<s>x</s>")


def test_prompt_is_no_template():
    assert ChatTemplate("{{ messages[0].content }}").render("{{ 1 + 1 }}") == "{{ 1 + 1 }}"


def test_tools_are_none():
    source = "{% if tools is none and documents is none %}none{% endif %}"
    assert ChatTemplate(source).render("x") == "none"


def test_json_is_not_escaped_for_html():
    assert ChatTemplate("{{ messages | tojson }}").render("<ü>") == '[{"role": "user", "content": "<ü>"}]'


def test_date():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 11, 23))
    assert template.render("x") == "23 Nov 2026"


def test_loop_controls():
    assert (
        ChatTemplate("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}").render("")
        == "01"
    )


def test_refusal_of_the_template():
    source = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}ok"
    template = ChatTemplate(source)
    assert template.render("x") == "ok"
    with pytest.raises(InvalidParams, match=r"\$\.rkllm_input: expected .*: no tools here"):
        template.render("x", role="tool")


@pytest.mark.parametrize("source", ["{% if %}", "{{ messages[0] + 1 }}", "{{ 1 / 0 }}", "{{ nothing.at.all }}"])
def test_broken(source):
    with pytest.raises(NotSupported, match="chat template is broken") as caught:
        ChatTemplate(source).render("x")
    assert caught.value.data == {"needs": "set_chat_template"}


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception.__globals__.os }}"]
)
def test_sandbox(source):
    with pytest.raises(NotSupported):
        ChatTemplate(source).render("x")


def test_compiled_once(monkeypatch):
    template = ChatTemplate("x")
    template.render("a")
    monkeypatch.setattr(template, "_environment", None)
    assert template.render("b") == "x"
