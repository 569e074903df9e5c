"""Small chat templates in the manner of well-known ones."""

from __future__ import annotations

from tests.tiny_model import CHAT_TEMPLATE

CHATML = CHAT_TEMPLATE
"""With tools, the role ``tool`` and ``enable_thinking``; writes no system prompt of its own."""

LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start|>' + message.role + '<|end|>\\n\\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{{- '<|start|>assistant<|end|>\\n\\n' }}"""
"""Begins with the begin token; trims what is said; knows no tools."""

MISTRAL = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set said = messages[1:] %}{% else %}{% set said = messages %}{% endif %}
{%- for message in said %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{%- if message.role == 'user' %}
{%- if loop.last and tools %}{{ '[TOOLS]' + tools | tojson + '[/TOOLS]' }}{% endif %}
{%- if loop.last and messages[0].role == 'system' %}
{{- '[INST] ' + messages[0].content + '\\n\\n' + message.content + '[/INST]' }}
{%- else %}
{{- '[INST] ' + message.content + '[/INST]' }}
{%- endif %}
{%- else %}
{{- ' ' + message.content + eos_token }}
{%- endif %}
{%- endfor %}"""
"""No turn for the model to begin, roles that must alternate, tools and system prompt before the last turn."""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<turn>' + role + '\\n' + message.content | trim + '</turn>\\n' }}
{%- endfor %}
{{- '<turn>model\\n' }}"""
"""Refuses system prompts."""

THINKING = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.last else '') + content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' + ('<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n') }}"""
"""Leaves the thoughts of earlier answers out."""

LAST_ONLY = "{{ 'Q: ' + messages[-1].content + '\\nA:' }}"
"""Shows the last turn and nothing before it."""

OWN_SYSTEM = """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nI am Tiny.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
"""Has a system prompt of its own where none is given."""

BY_PARAMETERS = """\
{%- for tool in tools or [] %}
{{- tool.function.name + '(' + tool.function.parameters.properties.keys() | join(', ') + ')\\n' }}
{%- endfor %}
{{- '<|im_start|>' + messages[-1].role + '\\n' + messages[-1].content }}"""
"""Looks into the tools."""

BROKEN = "{{ nothing.at.all }}"
