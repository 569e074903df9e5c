"""Which CPUs the library computes on beside the NPU.

A mask with other CPUs than the machine has, or with another count than ``enabled_cpus_num``, makes init fail
(airockchip/rknn-llm issue 474: the default mask of CPUs 4 to 7 on a board with six). The vendor's default is the four
big cores, which have the highest numbers on RK3588 and RK3576; on the small ones prefill takes five times as long
(measured by dmmdea/offload-harness on an RK3588S).
"""

from __future__ import annotations

import os

from rkllm_twisted.errors import InvalidParams
from rkllm_twisted.values import RKLLMExtendParam

COUNT = 4
"""``enabled_cpus_num`` by default (manual 1.3.0, section 3.2.2)."""
NAMED = 8
"""``rkllm.h`` names CPU0 to CPU7."""

_WHERE = "$.param.extend_param"


def usableCPUs() -> list[int]:
    """The CPUs that this process may use and that a mask can name."""
    return sorted(cpu for cpu in os.sched_getaffinity(0) if cpu < NAMED) or [0]


def defaultCPUs() -> tuple[int, int]:
    """How many CPUs to use, and their mask."""
    highest = usableCPUs()[-COUNT:]
    return len(highest), _mask(highest)


def chosenCPUs(extend: RKLLMExtendParam) -> tuple[int, int]:
    """How many CPUs to use, and their mask, as the library will be told.

    Of the two fields, one that has its default follows the other: a client may give one alone.

    Args:
        extend: With both fields set; a mask of 0 names none and follows the count.

    Raises:
        InvalidParams: There are not as many CPUs, the mask names others, or the two contradict each other.
    """
    usable, (defaultCount, defaultMask) = usableCPUs(), defaultCPUs()
    count, mask = extend.enabled_cpus_num, extend.enabled_cpus_mask
    if mask in (0, defaultMask):
        if count > len(usable):
            raise InvalidParams(f"{_WHERE}.enabled_cpus_num: expected {_atMost(usable)}, got {count}")
        return count, _mask(usable[-count:])
    if mask & ~_mask(usable):
        raise InvalidParams(f"{_WHERE}.enabled_cpus_mask: expected {_among(usable)}, got {mask} ({_named(mask)})")
    if count not in (defaultCount, mask.bit_count()):
        raise InvalidParams(
            f"{_WHERE}.enabled_cpus_num: expected {mask.bit_count()}, as many as enabled_cpus_mask names, got {count}"
        )
    return mask.bit_count(), mask


def _mask(cpus: list[int]) -> int:
    return sum(1 << cpu for cpu in cpus)


def _named(mask: int) -> str:
    return ", ".join(f"CPU{cpu}" for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def _among(usable: list[int]) -> str:
    return f"CPUs that this process may use, {_named(_mask(usable))}"


def _atMost(usable: list[int]) -> str:
    return f"at most {len(usable)}, the CPUs that this process may use ({_named(_mask(usable))})"
