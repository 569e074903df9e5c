"""Whether an array is as long as it is said to be.

The library cannot check that, and a wrong length ends its process (airockchip/rknn-llm issues 336, 341, 358 and 359).
"""

from __future__ import annotations

from math import prod

from rkllm_twisted.errors import InvalidParams


def checkLength(where: str, length: int, expected: int, name: str) -> None:
    """Check an array that has a number for each of something.

    Args:
        where: Its JSON path.
        length: How many numbers it has.
        expected: How many it should have.
        name: The field that says so.

    Raises:
        InvalidParams: It has more or fewer.
    """
    if length != expected:
        raise InvalidParams(f"{where}: expected as many numbers as {name} says, {expected}, got {length}")


def checkRows(where: str, length: int, **counts: int) -> None:
    """Check an array of rows, whose width only the library knows.

    Args:
        where: Its JSON path.
        length: How many numbers it has.
        counts: The fields whose product is the number of rows; none is 0.

    Raises:
        InvalidParams: It is empty, or its rows are not whole.
    """
    rows = prod(counts.values())
    if length == 0 or length % rows:
        raise InvalidParams(f"{where}: expected a multiple of {' × '.join(counts)}, {rows} numbers, got {length}")


def checkItems(where: str, length: int, **counts: int) -> None:
    """Check an array of rows for each of some items, such as images: there are both or neither.

    Args:
        where: Its JSON path.
        length: How many numbers it has.
        counts: As for `checkRows`; the first is the number of items.

    Raises:
        InvalidParams: As `checkRows`, or one of the fields is 0 though there are rows or items.
    """
    if not length and not next(iter(counts.values())):
        return
    for name, count in counts.items():
        if count == 0:
            parent = where.rpartition(".")[0]
            raise InvalidParams(f"{parent}.{name}: expected 1 or more, as there are embeddings, got {count}")
    checkRows(where, length, **counts)
