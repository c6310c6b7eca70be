"""Kubernetes resource quantities (`500m`, `5120Mi`, `8`) as numbers, and sums of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_SUFFIXES: Final = {
    "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip

Amounts = Mapping[str, float]


def amount(quantity: str | int | float) -> float:
    """The number that a quantity stands for, bytes for memory and cores for cpu."""
    text = str(quantity)
    for suffix in (text[-2:], text[-1:]):
        if suffix in _SUFFIXES:
            return float(text[: -len(suffix)]) * _SUFFIXES[suffix]
    return float(text)


def requests_of(pod: Mapping[str, Any]) -> dict[str, float]:
    """What a pod asks of a node: the sum over its containers, or the largest init container where that is more."""
    spec = pod["spec"]
    total = add(map(_requests, spec["containers"]))
    for container in spec.get("initContainers", ()):
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, 0.0), value)
    return {**total, "pods": 1.0}


def add(parts: Iterable[Amounts]) -> dict[str, float]:
    """The sum of several sets of amounts."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def fits(wanted: Amounts, offered: Mapping[str, Any]) -> bool:
    """Whether a node's `allocatable` holds the amounts."""
    return all(value <= amount(offered.get(name, 0)) for name, value in wanted.items() if value)


def _requests(container: Mapping[str, Any]) -> dict[str, float]:
    resources = container.get("resources", {})
    wanted = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: amount(value) for name, value in wanted.items()}
