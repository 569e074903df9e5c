"""The base of what a client sends."""

from __future__ import annotations

from msgspec import Struct


class Value(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of what a client may send: unknown fields are refused."""
