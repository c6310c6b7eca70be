"""Environment variables: those that the pinned engines and the libraries under them read, and no others."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

import yaml

from catalog.engine_flags import DIRECTORY, Refusal, parser_data


@functools.cache
def listed() -> Mapping[str, Mapping[str, Any]]:
    """variables.yaml: `libraries` and `own` by name, each with its source, and `removed` by engine."""
    return yaml.safe_load((DIRECTORY / "variables.yaml").read_text(encoding="utf-8"))


def read_by(engine: str) -> frozenset[str]:
    """What somebody in an engine's container reads. vLLM may carry LMCache."""
    names = parser_data(engine).environment | listed()["libraries"].keys() | listed()["own"].keys()
    return frozenset(names | parser_data("lmcache").environment if engine == "vllm" else names)


def unread(engine: str, name: str) -> Refusal | None:
    """Why a variable would be set for nobody, with the nearest that is read; None where it is read."""
    known = read_by(engine)
    if name in known:
        return None
    data = parser_data(engine)
    why = f"nothing in {data.engine} {data.version} reads `{name}`"
    gone = listed()["removed"].get(data.engine, {}).get(name)
    if gone is not None:
        return Refusal(token=name, why=f"{why}: older versions did", help=gone)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return Refusal(token=name, why=why, help=f"did you mean `{near[0]}`?" if near else None)
