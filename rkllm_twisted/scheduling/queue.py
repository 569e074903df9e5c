"""A line that is fair between owners and first come, first served within one (W-TURNS)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from itertools import zip_longest
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Items of several owners, taken round robin between the owners. Every step costs the same however long it is."""

    def __init__(self) -> None:
        self._length = 0
        self._lines: OrderedDict[Hashable, OrderedDict[Item, None]] = OrderedDict()

    def __len__(self) -> int:
        return self._length

    def inOrder(self) -> list[Item]:
        """All items, in the order in which they would be taken."""
        rounds = zip_longest(*self._lines.values(), fillvalue=None)
        return [item for each in rounds for item in each if item is not None]

    def put(self, owner: Hashable, item: Item) -> None:
        """Append an item to its owner's line; an owner without one comes last among the owners."""
        self._lines.setdefault(owner, OrderedDict())[item] = None
        self._length += 1

    def take(self) -> Item:
        """Remove and return the item whose turn it is.

        Raises:
            KeyError: There is none.
        """
        owner, line = self._lines.popitem(last=False)
        item, _ = line.popitem(last=False)
        if line:
            self._lines[owner] = line
        self._length -= 1
        return item

    def remove(self, owner: Hashable, item: Item) -> None:
        """Remove an item that waits.

        Raises:
            KeyError: It does not wait.
        """
        line = self._lines[owner]
        del line[item]
        if not line:
            del self._lines[owner]
        self._length -= 1
