"""How the results of a run reach the client (W-OPTIONS), and how long one may be."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from rkllm_twisted.errors import ResultTooLarge
from rkllm_twisted.values.base import Value


class DeliveryOptions(Value, frozen=True):
    """How one run is delivered over the wire (W-OPTIONS)."""

    stream: Literal["lines", "progress", "whole"] = "lines"
    """One line for each result; or each as a notification, then the whole; or the whole in one response."""
    tensors: Literal["json", "base64"] = "json"
    """Numbers as JSON, or {``dtype``, ``shape``, ``data``} with the rows as base64 of little-endian float32."""
    rows: Literal["all", "last"] = "all"
    """All rows of a tensor, or the last of each result."""
    deadline: Annotated[float, Meta(gt=0)] | None = None
    """Seconds from the arrival of the request to its last line; without it there is no limit."""


MAX_REPLY = 256 * 2**20
"""The longest result with tensors in it, in bytes, unless another limit is given."""


class Delivery(Struct, frozen=True):
    """How one run is delivered, for whoever makes its results: what may be left out, and what would be too long.

    A backend that makes tensors asks `checkTensors` before it computes them. It need not look at ``rows``: what nobody
    wants is left out later.
    """

    stream: Literal["lines", "progress", "whole"] = "lines"
    tensors: Literal["json", "base64"] = "json"
    rows: Literal["all", "last"] = "all"
    maxReply: int = MAX_REPLY
    """The longest result with tensors in it, in bytes as it is spelled."""

    def checkTensors(self, size: int) -> None:
        """Refuse tensors that would be too long, before they are spelled.

        Args:
            size: In bytes of float32. As JSON, a number of four bytes takes two characters at least; as base64, 5.3.

        Raises:
            ResultTooLarge: Whatever the numbers are.
        """
        self.checkReply(size // 2 if self.tensors == "json" else size * 4 // 3)

    def checkReply(self, size: int) -> None:
        """Refuse a result of so many bytes.

        Raises:
            ResultTooLarge: It is too long.
        """
        if size > self.maxReply:
            raise ResultTooLarge(f"{size} bytes, the limit is {self.maxReply}", bytes=size, limit=self.maxReply)
