"""What each pinned engine's own argument parser takes, recorded from that parser.

The data is written by `python -m catalog.tools.engine_flags`; `ParserData.check` judges a line as the engine would.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import yaml

DIRECTORY = Path(__file__).parent

PARSED_FILE = "parsed.json"
"""What the real parsers said about the lines of the matrix."""

STARTED_FILE = "started.json"
SAVED_SHARDS_FILE = "saved_shards.json"
"""Lines with which the engines configured themselves."""

_COUNT = re.compile(r"-?\d+(\.\d+)?[kKmMgGtT]?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One argument of an engine's command line."""

    names: tuple[str, ...]
    """All spellings; those that switch off too."""
    dest: str
    """Its name inside the engine."""
    takes: Literal["value", "nothing", "switch"]
    """`switch` is a pair that says yes or no."""
    type: Literal["text", "int", "count", "float", "json", "bool"] = "text"
    """`count` is a number such as 32k."""
    nargs: str | int | None = None
    choices: tuple[Any, ...] = ()
    known: tuple[str, ...] = ()
    """Values that are built in, where plugins may add others."""
    default: Any = None
    positional: bool = False
    required: bool = False
    deprecated: bool = False
    group: str = ""

    def refusal(self, value: str) -> str | None:
        """Why the engine would not take a value; None where it would."""
        if self.choices and not any(str(choice) == value for choice in self.choices):
            near = difflib.get_close_matches(value, [str(c) for c in self.choices], n=1, cutoff=0.5)
            known = f"did you mean `{near[0]}`?" if near else f"it takes {', '.join(map(str, self.choices[:12]))}"
            return f"`{value}` is none of its values; {known}"
        return None if _converts(self.type, value) else f"`{value}` is no {_WORDS[self.type]}"


_WORDS = {"int": "whole number", "count": "number", "float": "number", "json": "JSON", "bool": "true or false"}


def _converts(kind: str, value: str) -> bool:
    if kind == "count":
        return value == "auto" or _COUNT.fullmatch(value) is not None
    if kind == "bool":
        return value.lower() in {"true", "false", "1", "0", "yes", "no"}
    converters = {"int": int, "float": float, "json": json.loads}
    if kind not in converters:
        return True
    try:
        converters[kind](value)
    except ValueError:
        return kind == "json" and value in {"None", "none"}
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A part of a command line that the engine would not take."""

    token: str
    why: str
    help: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """A flag that older versions had and the pinned one has not."""

    instead: str
    """What to say now."""


@dataclass(frozen=True, kw_only=True)
class ParserData:
    """One engine's recorded argument parser."""

    engine: str
    version: str
    source: str
    as_of: str
    flags: tuple[Flag, ...]
    metrics: frozenset[str]
    """As Prometheus has them: counters with _total, histograms without _bucket."""
    environment: frozenset[str]
    """Variables that the engine reads."""
    engine_arguments: frozenset[str]
    """vLLM's engine arguments as keywords, which Ray Serve LLM passes on."""
    removed: Mapping[str, Removed]

    @functools.cached_property
    def by_name(self) -> Mapping[str, Flag]:
        """Flags by each of their spellings."""
        return {name: flag for flag in self.flags for name in flag.names if not flag.positional}

    @functools.cached_property
    def by_dest(self) -> Mapping[str, Flag]:
        """Flags by their name inside the engine."""
        return {flag.dest: flag for flag in reversed(self.flags)}

    def flag(self, name: str) -> Flag | None:
        """The flag of a spelling; vLLM takes `_` for `-`."""
        return self.by_name.get(name) or self.by_name.get(_dashed(name))

    def check(self, line: Sequence[str]) -> list[Refusal]:
        """What the engine would refuse in a line of arguments, in the line's order."""
        found: list[Refusal] = []
        position = 0
        while position < len(line):
            token = line[position]
            position += 1
            if not token.startswith("-"):
                if position > 1 or not any(flag.positional for flag in self.flags):
                    found.append(Refusal(token=token, why="no option stands before it"))
                continue
            name, _, value = token.partition("=")
            flag = self.flag(name)
            if flag is None:
                found.append(self.unknown(name))
                while position < len(line) and not line[position].startswith("-"):
                    position += 1
                continue
            values: list[str] = [value] if "=" in token else []
            while "=" not in token and flag.takes == "value" and position < len(line):
                if line[position].startswith("-") or (values and flag.nargs not in {"+", "*"}):
                    break
                values.append(line[position])
                position += 1
            found += self._values(name, flag, values)
        return found

    def _values(self, name: str, flag: Flag, values: list[str]) -> list[Refusal]:
        if flag.takes != "value":
            return [Refusal(token=name, why="it takes no value")] if values else []
        if not values and flag.nargs not in {"?", "*"}:
            return [Refusal(token=name, why="it needs a value")]
        refusals = [refusal for value in values if (refusal := flag.refusal(value))]
        return [Refusal(token=name, why=refusal) for refusal in refusals]

    def unknown(self, name: str) -> Refusal:
        """A flag that this version has not, with the nearest thing that works."""
        gone = self.removed.get(_dashed(name))
        if gone is not None:
            return Refusal(
                token=name, why=f"{self.engine} {self.version} has no `{name}`: older versions had", help=gone.instead
            )
        near = self.nearest(name)
        return Refusal(
            token=name,
            why=f"{self.engine} {self.version} has no `{name}`",
            help=f"did you mean `{near.names[0]}`?" if near else "see `--help` of that version",
        )

    def nearest(self, name: str) -> Flag | None:
        """What an unknown spelling may mean: a short form, the beginning of a name, or one much like it."""
        dashed = _dashed(name)
        if dashed[1:] in self.by_name:
            return self.by_name[dashed[1:]]
        long = [known for known in self.by_name if known.startswith("--")]
        begun = [known for known in long if len(dashed) > 3 and known.startswith(dashed)]
        near = (
            begun[:1]
            if len(begun) == 1
            else difflib.get_close_matches(dashed, begun or long, n=1, cutoff=0.7 if not begun else 0)
        )
        return self.by_name[near[0]] if near else None


def _dashed(name: str) -> str:
    head, dot, rest = name.partition(".")
    return head.replace("_", "-") + dot + rest


@functools.cache
def parser_data(engine: str) -> ParserData:
    """The recorded parser of `vllm`, `sglang` or `ray-llm` (the vLLM that Ray carries)."""
    data = json.loads((DIRECTORY / f"{engine}.json").read_text(encoding="utf-8"))
    removed = yaml.safe_load((DIRECTORY / "removed.yaml").read_text(encoding="utf-8"))["engines"].get(engine, {})
    return ParserData(
        engine="vllm" if engine == "ray-llm" else engine,
        version=data["version"],
        source=data["source"],
        as_of=data["as_of"],
        flags=tuple(_flag(entry) for entry in data["flags"]),
        metrics=frozenset(data["metrics"]),
        environment=frozenset(data["environment"]),
        engine_arguments=frozenset(data.get("engine_arguments", ())),
        removed=MappingProxyType({name: Removed(instead=instead) for name, instead in removed.items()}),
    )


def _flag(entry: dict[str, Any]) -> Flag:
    lists = {key: tuple(entry[key]) for key in ("names", "choices", "known") if key in entry}
    return Flag(**cast("dict[str, Any]", {**entry, **lists}))


def parsed() -> Mapping[str, Mapping[str, Any]]:
    """What the real parsers said about the matrix: engine -> version, date, lines, refusals, options tried."""
    return json.loads((DIRECTORY / PARSED_FILE).read_text(encoding="utf-8"))


def started() -> Mapping[str, Mapping[str, Any]]:
    """Lines with which the engines configured themselves: engine -> version, date, number, names."""
    return json.loads((DIRECTORY / STARTED_FILE).read_text(encoding="utf-8"))


def saved_shards() -> Mapping[str, Any]:
    """vLLM's shards of small models: version, date, and architecture -> layout -> tensors, what differs, files."""
    return json.loads((DIRECTORY / SAVED_SHARDS_FILE).read_text(encoding="utf-8"))


def serve_schemas() -> Mapping[str, Any]:
    """Ray Serve's own JSON schemas."""
    return json.loads((DIRECTORY / "ray-serve-schemas.json").read_text(encoding="utf-8"))
