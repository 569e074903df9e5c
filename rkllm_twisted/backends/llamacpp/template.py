"""A prompt -> the text that the model was trained on.

A model file carries its chat template as Jinja source, written by strangers: it is rendered in a sandbox. llama.cpp's
own ``llama_chat_apply_template`` knows neither tools nor thinking, and only templates from a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rkllm_twisted.errors import InvalidParams, NotSupported
from rkllm_twisted.values import Capability

Message = dict[str, object]
"""A turn for a template: ``role`` and ``content``."""


class ChatTemplate:
    """The chat template of one model.

    Args:
        source: The Jinja source.
        bos: The text of the model's token for the beginning of a text.
        eos: The text of its end token.
        now: The time, for templates that write the date.
    """

    def __init__(
        self, source: str, *, bos: str = "", eos: str = "", now: Callable[[], datetime] = datetime.now
    ) -> None:
        self._source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._now = now
        self._compiled: Any = None

    def render(
        self, messages: list[Message], *, tools: list[object] | None = None, enableThinking: bool = False
    ) -> str:
        """Turns, ready to be answered.

        Args:
            messages: The turns.
            tools: Descriptions of functions that the model may call.
            enableThinking: Given to the template as ``enable_thinking``.

        Raises:
            InvalidParams: The template refuses the turns.
            NotSupported: The template itself is broken.
        """
        try:
            self._compiled = self._compiled or self._environment().from_string(self._source)
            text: str = self._compiled.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=True,
                enable_thinking=enableThinking,
                **self._tokens,
            )
        except Refusal as refusal:
            raise InvalidParams(
                f"$.rkllm_input: expected a turn that the model's chat template takes, which says: {refusal}"
            ) from None
        except Exception as error:  # whatever Jinja's filters raise over values that they do not expect
            raise NotSupported(
                f"the model's chat template is broken ({error})", needs=Capability.CHAT_TEMPLATE.value
            ) from error
        return text

    def _environment(self) -> Any:
        # What the templates of Hugging Face expect, for which they were written: transformers' chat_template_utils.py.
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = toJSON
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: self._now().strftime(form)
        return environment


class Refusal(Exception):
    """A template called ``raise_exception``."""


def refuse(message: str) -> None:
    """``raise_exception`` of the templates."""
    raise Refusal(message)


def toJSON(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """``tojson`` of the templates; Jinja's own escapes ``<``, ``>``, ``&`` and ``'`` for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
