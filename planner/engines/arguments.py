"""A part of an engine's command line, with the reason for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One option with its values, and why it is there."""

    tokens: tuple[str, ...]
    why: str

    @property
    def text(self) -> str:
        """As it stands on the command line."""
        return " ".join(self.tokens)


def option(name: str, value: object, why: str) -> Argument:
    """`--name=value`."""
    return Argument(tokens=(f"{name}={value}",), why=why)


def switch(name: str, why: str) -> Argument:
    """`--name`."""
    return Argument(tokens=(name,), why=why)


def line_of(arguments: Iterable[Argument]) -> tuple[str, ...]:
    """The tokens of a command line."""
    return tuple(token for argument in arguments for token in argument.tokens)
