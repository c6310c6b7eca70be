"""Pareto fronts of anything: what nothing beats in everything, and who beats each of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter, le
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Vector = tuple[float, ...]
"""What an option is judged by: the lower each number the better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front(Generic[T]):
    """Options parted into those that nothing dominates and the rest."""

    members: tuple[T, ...]
    """By their vectors, so the best in the first number comes first."""
    dominated: tuple[tuple[T, int], ...]
    """Every other option with the position of a member that dominates it."""


def dominates(one: Vector, other: Vector) -> bool:
    """Whether `one` is as good as `other` in everything and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def pareto(options: Iterable[T], vector: Callable[[T], Vector], tie: Callable[[T], tuple[Any, ...]]) -> Front[T]:
    """The front of `options`; of options with equal vectors the one with the lowest `tie` stays.

    Sorted by vector, an option is dominated by an earlier one or not at all, and domination is transitive: comparing
    each with the members found so far is enough, so the work grows with options x members.
    """
    ranked = sorted(((vector(option), option) for option in options), key=itemgetter(0))
    members: list[tuple[Vector, T]] = []
    dominated: list[tuple[T, int]] = []
    for own, group in groupby(ranked, key=itemgetter(0)):
        equals = [option for _, option in group]
        by = next((at for at, (better, _) in enumerate(members) if _no_worse(better, own)), None)
        if by is None:
            by = len(members)
            best = min(range(len(equals)), key=[tie(option) for option in equals].__getitem__) if len(equals) > 1 else 0
            members.append((own, equals.pop(best)))
        dominated += ((option, by) for option in equals)
    return Front(members=tuple(option for _, option in members), dominated=tuple(dominated))


def _no_worse(one: Vector, other: Vector) -> bool:
    return all(map(le, one, other))
