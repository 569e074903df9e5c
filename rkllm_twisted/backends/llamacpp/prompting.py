"""What a run says -> the text that the model reads: one turn, between what came before it and the answer.

Three ways, the later ones in the place of the earlier: the model's own chat template; the same with function tools and
their system prompt (``rkllm_set_function_tools``); three strings of the client's own (``rkllm_set_chat_template``), in
which tools do not appear (airockchip/rknn-llm issues 429 and 431). A model without a template gets prompts as they are:
it was trained to continue text, and so does RKLLM before 1.2 with every model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from rkllm_twisted.backends.llamacpp.template import ChatTemplate, Message
from rkllm_twisted.errors import InvalidParams, NotSupported
from rkllm_twisted.ranges import cut
from rkllm_twisted.values import Capability, RKLLMInput

ANSWER, QUESTION = "\ue0a1answer\ue0a1", "\ue0a2question\ue0a2"
"""Stand for an answer and a prompt where only what is around them is wanted. Of the private use area of Unicode."""


class Prompting:
    """How the prompts of one model are written.

    Args:
        source: The source of its chat template; None if it has none.
        special: The texts of its tokens for the beginning of a text and the end of an answer.
        systemPrompt: What the system turn says; None leaves that to the template.

    Attributes:
        turns: What writes them.
    """

    def __init__(self, source: str | None, special: tuple[str, str], systemPrompt: str | None) -> None:
        self._systemPrompt = systemPrompt
        self._special = special
        self._template = None if source is None else ChatTemplate(source, bos=special[0], eos=special[1])
        self._isOwn = False
        self.turns: Turns = OwnTurns()
        if self._template is not None:
            self.turns = TemplateTurns(self._template, systemPrompt, special[1])

    def setOwn(self, systemPrompt: str, prefix: str, postfix: str) -> None:
        """Write them with three strings. There is no way back, as RKLLM has none."""
        self._isOwn = True
        self.turns = OwnTurns(systemPrompt, prefix, postfix)

    def setTools(self, systemPrompt: str, tools: str, toolResponse: str) -> None:
        """Offer functions to the model. Without effect on strings of the client's own, before and after.

        Args:
            systemPrompt: Takes the place of the one there is, unless it is empty.
            tools: A JSON text.
            toolResponse: See `TemplateTurns`.

        Raises:
            InvalidParams: ``tools`` is no JSON array of objects.
            NotSupported: The model has no chat template, or one that refuses them.
        """
        known = toolsOf(tools)
        if self._isOwn:
            return
        if self._template is None:
            reason = "the model has no chat template to write tools with"
            raise NotSupported(reason, needs=Capability.FUNCTION_TOOLS.value)
        system = systemPrompt or self._systemPrompt
        turns = TemplateTurns(self._template, system, self._special[1], known, toolResponse)
        try:
            if known and not turns.showTools():
                turns = TemplateTurns(self._template, _withTools(system, known), self._special[1], None, toolResponse)
            turns.first(QUESTION, "user", False)
        except InvalidParams as refusal:
            reason = f"the model's chat template takes no system prompt or no tools ({refusal.detail})"
            raise NotSupported(reason, needs=Capability.FUNCTION_TOOLS.value) from None
        self.turns = turns

    def writer(self, input: RKLLMInput, ended: str | None) -> Callable[[str], str]:
        """What writes the turn of an input around its prompt.

        Args:
            input: Says who speaks, and whether the model is to think.
            ended: None if nothing comes before it, else the text of the token that ended the answer before it, or "".
        """
        thinks = bool(input.enable_thinking)
        if ended is None:
            return lambda prompt: self.turns.first(prompt, input.role, thinks)
        return lambda prompt: self.turns.next(prompt, input.role, thinks, ended)


def _withTools(systemPrompt: str | None, tools: list[object]) -> str:
    """A system prompt with tools, for a template that shows none by itself."""
    lines = [_spelled(tool) for tool in tools]
    asked = 'You may call these functions; to call one, answer with {"name": its name, "arguments": {its arguments}}:'
    return "\n".join([*([systemPrompt, ""] if systemPrompt else []), asked, "<tools>", *lines, "</tools>"])


class Turns(Protocol):
    """Writes turns."""

    def first(self, prompt: str, role: str, thinks: bool) -> str:
        """A turn that nothing comes before.

        Args:
            prompt: What it says.
            role: Who says it, ``user`` or ``tool``.
            thinks: Whether the model is to think.
        """

    def next(self, prompt: str, role: str, thinks: bool, ended: str) -> str:
        """A turn behind an answer.

        Args:
            prompt: What it says.
            role: Who says it.
            thinks: Whether the model is to think.
            ended: The text of the token that ended the answer; "" if nothing did.
        """

    def system(self) -> str:
        """What comes before every first turn: the system prompt."""


class OwnTurns:
    """Turns of three strings; three empty ones say the prompt and nothing else (manual 1.3.0, section 3.2.11).

    Args:
        systemPrompt: Comes before the first turn.
        prefix: Comes before each prompt.
        postfix: Comes after each prompt.
    """

    def __init__(self, systemPrompt: str = "", prefix: str = "", postfix: str = "") -> None:
        self._systemPrompt = systemPrompt
        self._prefix = prefix
        self._postfix = postfix

    def first(self, prompt: str, role: str, thinks: bool) -> str:
        """See `Turns`."""
        return self._systemPrompt + self.next(prompt, role, thinks, "")

    def next(self, prompt: str, role: str, thinks: bool, ended: str) -> str:
        """See `Turns`."""
        return self._prefix + prompt + self._postfix

    def system(self) -> str:
        """See `Turns`."""
        return self._systemPrompt


class TemplateTurns:
    """Turns of the model's own chat template.

    Args:
        template: The template.
        systemPrompt: What the system turn says; None leaves that to the template.
        eos: The text of the model's end token.
        tools: Functions that the model may call.
        toolResponse: The tag that marks the results of functions, where the template does not (manual 1.3.0, section
            3.2.12).
    """

    def __init__(
        self,
        template: ChatTemplate,
        systemPrompt: str | None,
        eos: str,
        tools: list[object] | None = None,
        toolResponse: str = "",
    ) -> None:
        self._template = template
        self._system: list[Message] = [] if systemPrompt is None else [_message("system", systemPrompt)]
        self._eos = eos
        self._tools = tools
        self._toolResponse = toolResponse

    def first(self, prompt: str, role: str, thinks: bool) -> str:
        """See `Turns`."""
        return self._render(self._turn(prompt, role), thinks)

    def next(self, prompt: str, role: str, thinks: bool, ended: str) -> str:
        """See `Turns`. The whole conversation is written, with something in the place of what is there already, and
        what comes behind that is the turn.

        A template that shows no earlier turns writes this one as if it were the first.
        """
        before = [_message("user", QUESTION), _message("assistant", ANSWER)]
        text = self._render([*before, *self._turn(prompt, role)], thinks)
        _, isShown, behind = text.partition(ANSWER)
        return behind.removeprefix(ended) if isShown else text

    def system(self) -> str:
        """See `Turns`. What is the same before a first turn and before a later one belongs to the turns.

        A template that cannot write them has written no system prompt either.
        """
        try:
            first = self.first(QUESTION, "user", False).partition(QUESTION)[0]
            later = self.next(QUESTION, "user", False, self._eos).partition(QUESTION)[0]
        except (InvalidParams, NotSupported):
            return ""
        shared = 0
        while shared < min(len(first), len(later)) and first[-1 - shared] == later[-1 - shared]:
            shared += 1
        return first[: len(first) - shared]

    def showTools(self) -> bool:
        """Whether the template writes the tools somewhere."""
        messages = [*self._system, _message("user", QUESTION)]
        return self._template.render(messages, tools=self._tools) != self._template.render(messages)

    def _render(self, messages: list[Message], thinks: bool) -> str:
        return self._template.render([*self._system, *messages], tools=self._tools, enableThinking=thinks)

    def _turn(self, prompt: str, role: str) -> list[Message]:
        if role != "tool":
            return [_message(role, prompt)]
        results = [result if isinstance(result, str) else _spelled(result) for result in _results(prompt)]
        if self._toolResponse and not self._marks():
            results = [f"<{self._toolResponse}>\n{result}\n</{self._toolResponse}>" for result in results]
        return [_message("tool", result) for result in results]

    def _marks(self) -> bool:
        """Whether the template marks the results of functions with the tag by itself, in whatever brackets.

        A tag of the name of a role stands in it too, but does not mark them.
        """
        text = self._render([_message("user", QUESTION), _message("tool", ANSWER)], False)
        tag = rf"[<\[|]{re.escape(self._toolResponse)}[>\]|]"
        return re.search(tag, text.partition(QUESTION)[2]) is not None


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _results(prompt: str) -> list[object]:
    """The results of functions that a prompt of the role ``tool`` holds: a JSON array has one in each element.

    Raises:
        InvalidParams: It is no JSON; RKLLM's run returns -1 over it (measured by others on 1.3.1).
    """
    value = _json(prompt, "$.rkllm_input.prompt_input", "results of functions as JSON, since role is tool")
    return value if isinstance(value, list) and value else [prompt]


def toolsOf(text: str) -> list[object]:
    """The tools that a JSON text describes: an array of them, or one.

    Raises:
        InvalidParams: It does not.
    """
    value = _json(text, "$.tools", "functions as a JSON array of objects")
    tools = [value] if isinstance(value, dict) else value
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidParams(f"$.tools: expected functions as a JSON array of objects, got {cut(text)}")
    return tools


def _spelled(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json(text: str, where: str, expected: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidParams(f"{where}: expected {expected}, got {cut(text)} ({error})") from None
    return value
