"""What the in-process engine remembers between runs: every resource as it left it."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from rehearsal.engines import values
from rehearsal.engines.contract import ResourceRecord
from rehearsal.engines.values import Properties, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One resource of the state.

    Attributes:
        urn: its URN.
        type: type token.
        name: logical name.
        parent: URN of the parent; None for the stack.
        custom: True for resources of a provider.
        protect: refuse deletion.
        retain_on_delete: leave the real thing when the resource goes.
        depends_on: URNs.
        provider: `<urn>::<id>` of the explicit provider.
        ignore_changes: property paths.
        inputs: as last applied, ignored fields as they were first; with marks.
        outputs: with marks.
        id: None for components.
        generation: how often it was replaced.
        external: True for what the program only reads: nobody deletes it.
    """

    urn: str
    type: str
    name: str
    parent: str | None
    custom: bool
    protect: bool
    retain_on_delete: bool
    depends_on: tuple[str, ...]
    provider: str | None
    ignore_changes: tuple[str, ...]
    inputs: Properties
    outputs: Properties
    id: str | None
    generation: int = 0
    external: bool = False

    def record(self) -> ResourceRecord:
        """The entry as the engine contract shows it: marks instead of secrets."""
        return ResourceRecord(
            urn=self.urn,
            type=self.type,
            name=self.name,
            parent=self.parent,
            protect=self.protect,
            depends_on=self.depends_on,
            custom=self.custom,
            inputs=values.shown(self.inputs),
            outputs=values.shown(self.outputs),
            id=self.id,
        )


class State:
    """The entries by URN, in the order in which they were made. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        """`path` is where `save` writes, for whoever must find out what the engine believed."""
        self._path = path
        self._lock = threading.Lock()
        self._salt = secrets.token_hex(16)
        self._entries: dict[str, Entry] = {}

    def get(self, urn: str) -> Entry | None:
        """The entry, or None."""
        return self._entries.get(urn)

    def all(self) -> list[Entry]:
        """Every entry, in order of creation."""
        with self._lock:
            return list(self._entries.values())

    def put(self, entry: Entry) -> None:
        """Adds or changes an entry."""
        with self._lock:
            self._entries[entry.urn] = entry

    def remove(self, urn: str) -> None:
        """Forgets an entry."""
        with self._lock:
            self._entries.pop(urn, None)

    def save(self) -> None:
        """Writes the file in one step, readable by its owner only, with a salted hash in place of each secret."""
        document = {"resources": [self._stored(entry) for entry in self.all()]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(document, indent=1))
        draft.replace(self._path)

    def _stored(self, entry: Entry) -> Properties:
        # `asdict` would walk into the values and turn the marks into mappings.
        plain = {f.name: getattr(entry, f.name) for f in fields(entry)}
        return {**plain, "inputs": self._redacted(entry.inputs), "outputs": self._redacted(entry.outputs)}

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, Secret):
            text = json.dumps(values.reveal(value), sort_keys=True)
            return {"$secret": hashlib.sha256(f"{self._salt}{text}".encode()).hexdigest()}
        if isinstance(value, Mapping):
            return {key: self._redacted(item) for key, item in cast(Mapping[str, Any], value).items()}
        if isinstance(value, list):
            return [self._redacted(item) for item in cast(list[Any], value)]
        return value


def dependents_first(entries: Iterable[Entry]) -> dict[str, set[str]]:
    """For each URN the URNs that must be deleted before it: dependents, children, and what its provider manages.

    Whoever depends on a component depends on all that is inside it.
    """
    known = {entry.urn: entry for entry in entries}
    inside: dict[str, list[str]] = {}
    for entry in known.values():
        parent = entry.parent
        while parent in known:
            inside.setdefault(parent, []).append(entry.urn)
            parent = known[parent].parent
    before: dict[str, set[str]] = {urn: set() for urn in known}
    for entry in known.values():
        needed = {*entry.depends_on, *([entry.parent] if entry.parent else [])}
        needed |= {child for urn in entry.depends_on for child in inside.get(urn, ())}
        if entry.provider:
            needed.add(entry.provider.rpartition("::")[0])
        for urn in needed & before.keys() - {entry.urn}:
            before[urn].add(entry.urn)
    return before
