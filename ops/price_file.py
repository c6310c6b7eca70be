"""catalog/prices.yaml rewritten in place: comments, order and anchors stay, and it changes whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from catalog.load import Catalog
from catalog.records import CatalogError
from ops.errors import MissingError
from ops.price_sources import Kind, Quoted

_WIDTH = 4096
"""Lines are as long as they are: a wrapped line would be a change that nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One price of the file."""

    name: str
    """Instance type or service."""
    kind: Kind | None
    """None: a service."""
    region: str
    old: float | None
    """None: the file had none for that region."""
    new: Quoted

    @property
    def ratio(self) -> float | None:
        """New over old."""
        return self.new.usd / self.old if self.old else None


class PriceFile:
    """The catalog's prices, read to be changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._yaml: Any = YAML()  # Any: ruamel.yaml types little of itself
        self._yaml.preserve_quotes = True
        self._yaml.width = _WIDTH
        self._yaml.indent(mapping=2, sequence=4, offset=2)
        self._document: Any = self._yaml.load(path.read_text(encoding="utf-8"))

    def old(self, name: str, kind: Kind | None, region: str) -> float | None:
        """The price that the file has."""
        if kind is None:
            price = self._document["services"][name]["regions"].get(region)
        else:
            price = self._document["instances"].get(name, {}).get(kind, {}).get(region, {}).get("usd")
        return None if price is None else float(price)

    def apply(self, changes: Sequence[Change], at: date) -> None:
        """Put prices in; one that is as it was gets the new date all the same."""
        for change in changes:
            if change.kind is not None:
                self._quote(change, at)
        by_service: dict[str, list[Change]] = {}
        for change in changes:
            if change.kind is None:
                by_service.setdefault(change.name, []).append(change)
        for name, own in by_service.items():
            self._service(self._document["services"][name], own, at)

    def _quote(self, change: Change, at: date) -> None:
        entry: Any = CommentedMap()
        entry["usd"] = change.new.usd
        if change.new.low is not None and change.new.low != change.new.high:
            entry["low"], entry["high"] = change.new.low, change.new.high
        entry["source"], entry["as_of"] = change.new.source, at
        entry.fa.set_flow_style()
        kinds = self._document["instances"].setdefault(change.name, CommentedMap())
        kinds.setdefault(change.kind, CommentedMap())[change.region] = entry

    def _service(self, entry: Any, changes: Sequence[Change], at: date) -> None:
        for change in changes:
            entry["regions"][change.region] = change.new.usd
        if {change.region for change in changes} >= set(entry["regions"]):
            # Source and date stand for all regions of the entry: they are new when all of its prices are.
            entry["source"], entry["as_of"], entry["evidence"] = changes[0].new.source, at, "source"

    def text(self) -> str:
        """The file as it would be written."""
        stream = io.StringIO()
        self._yaml.dump(self._document, stream)
        return stream.getvalue()

    def save(self) -> None:
        """Write the file, once the catalog has loaded what would be written.

        Raises:
            MissingError: it would not load, or cannot be written; the file is as it was.
        """
        text = self.text()
        try:
            with tempfile.TemporaryDirectory() as directory:
                copy = Path(directory) / self._path.name
                copy.write_text(text, encoding="utf-8")
                Catalog(Path(directory)).prices  # noqa: B018 - loads, and raises for what it cannot
            self._replace(text)
        except CatalogError as error:
            message = f"the new prices would not load: {error}"
            raise MissingError(message, help="the file is as it was; report this with the output of --json") from error
        except OSError as error:
            message = f"{self._path} cannot be written: {error.strerror}"
            raise MissingError(message, help="the file is as it was; mend its rights and run this again") from error

    def _replace(self, text: str) -> None:
        """Beside the file first, then in its place in one step: a kill leaves the old one or the new one."""
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            shutil.copymode(self._path, name)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
