"""Records, which are nested dataclasses of tensors: conversion to a dict, moves to a device."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import isabstract
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

T = TypeVar("T")


def pack(value: Any, hint: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors and numbers of a record as tensors by name, such as ``diagnostics.rank``.

    ``hint`` is the annotated type of the value, and ``name`` its name in the record. If the value
    is of a subclass of the annotated type, the name of the subclass is stored too.

    Raises:
        TypeError: a value is not a tensor, a number, None, or a tuple or dataclass of such values.
    """
    if value is None:
        return {}
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, bool | int | float):
        return {name: torch.tensor(value, dtype=_NUMBERS[type(value)], device="cpu")}
    packed: dict[str, Tensor] = {}
    if isinstance(value, tuple):
        parts = {str(i): (part, get_args(hint)[0]) for i, part in enumerate(value)}
    elif is_dataclass(value) or (isabstract(hint) and not vars(value)):
        parts = {key: (getattr(value, key), item) for key, item in _field_types(type(value))}
        if type(value) is not hint:
            packed[name] = torch.tensor(
                list(type(value).__name__.encode()), dtype=torch.uint8, device="cpu"
            )
    else:
        raise TypeError(
            f"{name} must be a tensor, a number or a dataclass to be stored, got {value!r}"
        )
    for key, (part, item) in parts.items():
        packed |= pack(part, item, f"{name}.{key}" if name else key)
    return packed


def unpack(hint: Any, state: Mapping[str, Tensor], name: str = "") -> Any:
    """The value that :func:`pack` converted, of the annotated type ``hint``.

    Raises:
        KeyError: a name is missing.
        TypeError: a value is no tensor.
        ValueError: a subclass is not defined in this process.
    """
    _require_mapping(state)
    choices, prefix = get_args(hint), f"{name}." if name else ""
    if NoneType in choices:
        present = any(key == name or key.startswith(prefix) for key in state)
        return unpack(choices[0], state, name) if present else None
    if hint is Tensor:
        return stored(state, name)
    if hint in _NUMBERS:
        return hint(stored(state, name).item())
    if get_origin(hint) is tuple:
        count = sum(key.startswith(prefix) for key in state)  # the items are tensors
        return tuple(unpack(choices[0], state, f"{prefix}{i}") for i in range(count))
    if isabstract(hint) or name in state:
        wanted = bytes(stored(state, name).tolist()).decode()
        known = [kind for kind in _subclasses(hint) if kind.__name__ == wanted]
        if not known:
            raise ValueError(f"{name} must be a known {hint.__name__}, got {wanted!r}")
        if len(known) > 1:
            raise ValueError(
                f"{name} must name one {hint.__name__}, got {wanted!r}, the name of {len(known)} "
                "classes in this process"
            )
        hint = known[0]
    return hint(**{key: unpack(item, state, prefix + key) for key, item in _field_types(hint)})


def stored(state: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor of this name in a state. If the name is missing, the error lists all names."""
    _require_mapping(state)
    if name not in state:
        raise KeyError(f"state must have {name!r}, got {', '.join(state) or 'nothing'}")
    if not isinstance(state[name], Tensor):
        raise TypeError(f"state[{name!r}] must be a tensor, got {type(state[name]).__name__}")
    return state[name]


def _require_mapping(state: object) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of tensors, got {type(state).__name__}")


def moved(value: T, device: torch.device | str) -> T:
    """The record with every tensor on the device."""
    result: Any = value
    if isinstance(value, Tensor):
        result = value.to(device)
    elif isinstance(value, tuple):
        result = tuple(moved(part, device) for part in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        result = replace(value, **{key: moved(part, device) for key, part in parts.items()})
    return result


def summary(record: Any) -> str:
    """A record in one line: shape, dtype and device of its first tensor, settings, diagnostics."""
    names = [field.name for field in fields(record)]
    first = getattr(record, names[0])
    dtype = str(first.dtype).removeprefix("torch.")
    parts = [f"{names[0]}={tuple(first.shape)}", f"dtype={dtype}", f"device={first.device}"]
    for name in names:
        value = getattr(record, name)
        if name == "diagnostics":
            parts += [f"{key}={_range(values)}" for key, values in vars(value).items()]
        elif not isinstance(value, Tensor | tuple | NoneType):
            parts.append(f"{name}={value!r}")
    return f"{type(record).__name__}({', '.join(parts)})"


# A float is stored as float64, which represents it exactly.
_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}


def _range(values: Tensor) -> str:
    """The value of one group, or the range of the values of several groups."""
    try:
        low, high = values.min().item(), values.max().item()
    except RuntimeError:  # no groups, or a tensor without values
        return "?"
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def _field_types(kind: type) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind)
    return [(f.name, hints[f.name]) for f in fields(kind)] if is_dataclass(kind) else []


def _subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)
