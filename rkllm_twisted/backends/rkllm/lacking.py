"""Fields that a family of the library does not have: refused where they are set, never ignored."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import NODEFAULT, Struct, structs

from rkllm_twisted.backends.rkllm.families import FAMILIES, Family
from rkllm_twisted.errors import NotSupported
from rkllm_twisted.values import Capability

CAPABILITIES = {"n_batch": Capability.BATCHES, "use_cross_attn": Capability.CROSS_ATTENTION}
"""Fields of a model's parameters that a capability is named for."""


def refuseLacking(family: Family, struct: str, value: Struct, where: str) -> None:
    """Refuse fields that are neither null nor have their neutral default, and that the family has not.

    Args:
        family: Of the library.
        struct: The name of the C struct.
        value: With the same field names.
        where: Its JSON path.

    Raises:
        NotSupported: There is one; ``needs`` says which releases have it, or the capability where one is named for it.
    """
    fields = dict(family.ffi.typeof(struct).fields)
    for field in _fieldsOf(type(value)):
        given = getattr(value, field.name)
        if field.name not in fields:
            if given is not None and given != _default(field):
                _refuse(struct, field.name, where)
        elif isinstance(given, Struct):
            refuseLacking(family, _structOf(fields[field.name].type), given, f"{where}.{field.name}")


@cache
def _fieldsOf(kind: type[Struct]) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(kind)  # takes 0.3 ms, and each run asks for two


def _default(field: structs.FieldInfo) -> object:
    return field.default_factory() if field.default_factory is not NODEFAULT else field.default


def _structOf(type: Any) -> str:
    """The name of a struct, or of what a pointer points to."""
    name: str = (type if type.kind == "struct" else type.item).cname
    return name


def _refuse(struct: str, field: str, where: str) -> None:
    having = [family for family in FAMILIES.values() if family.hasField(struct, field)]
    if having[-1].key == list(FAMILIES)[-1]:
        needs = f"runtime {having[0].releases[0]} or newer"
    else:
        needs = f"runtime {having[0].releases[0]} to {having[-1].releases[-1]}"
    detail = f"{where}.{field}: this release of the runtime has no such field, {needs} has"
    capability = CAPABILITIES.get(field)
    raise NotSupported(detail, needs=capability.value if capability else needs)
