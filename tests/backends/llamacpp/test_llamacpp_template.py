"""Chat templates."""

from __future__ import annotations

from datetime import datetime

import pytest

from rkllm_twisted.backends.llamacpp.template import ChatTemplate
from rkllm_twisted.errors import InvalidParams, NotSupported


def user(content="x"):
    return [{"role": "user", "content": content}]


def test_is_asked_for_an_answer():
    source = "{{ messages[0].content }}{{ messages[1].content }}{% if add_generation_prompt %}?{% endif %}"
    assert ChatTemplate(source).render([*user("a"), *user("b")]) == "ab?"


def test_tokens_have_names():
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", bos="<s>", eos="</s>")
    assert template.render(user()) == "<s>x</s>"


def test_prompt_is_no_template():
    assert ChatTemplate("{{ messages[0].content }}").render(user("{{ 1 + 1 }}")) == "{{ 1 + 1 }}"


def test_without_tools_they_are_none():
    source = "{% if tools is none and documents is none %}none{% else %}{{ tools }}{% endif %}"
    assert ChatTemplate(source).render(user()) == "none"
    assert ChatTemplate(source).render(user(), tools=[{"a": 1}]) == "[{'a': 1}]"


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking(thinks):
    assert ChatTemplate("{{ enable_thinking }}").render(user(), enableThinking=thinks) == str(thinks)


def test_json_is_not_escaped_for_html():
    assert ChatTemplate("{{ messages | tojson }}").render(user("<ü>")) == '[{"role": "user", "content": "<ü>"}]'


def test_blocks_leave_no_blank_lines():
    assert ChatTemplate("a\n  {% if true %}\nb\n  {% endif %}\nc").render(user()) == "a\nb\nc"


def test_date():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 11, 23))
    assert template.render(user()) == "23 Nov 2026"


def test_loop_controls():
    source = "{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    assert ChatTemplate(source).render(user()) == "01"


def test_refusal_of_the_template():
    source = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}ok"
    template = ChatTemplate(source)
    assert template.render(user()) == "ok"
    with pytest.raises(InvalidParams, match=r"\$\.rkllm_input: expected .*: no tools here"):
        template.render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ messages[0] + 1 }}", "{{ 1 / 0 }}", "{{ nothing.at.all }}", "{{ 5 | dictsort }}"]
)
def test_broken(source):
    with pytest.raises(NotSupported, match="chat template is broken") as caught:
        ChatTemplate(source).render(user())
    assert caught.value.data == {"needs": "set_chat_template"}


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception.__globals__.os }}"]
)
def test_sandbox(source):
    with pytest.raises(NotSupported):
        ChatTemplate(source).render(user())


def test_compiled_once(monkeypatch):
    template = ChatTemplate("x")
    template.render(user("a"))
    monkeypatch.setattr(template, "_environment", None)
    assert template.render(user("b")) == "x"
