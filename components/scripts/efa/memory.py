"""What a node remembers of earlier checks: proofs and failures of these machines since they booted."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """Proofs and failures in a directory of the node; forgetting is harmless."""

    directory: Path | None
    keep_seconds: float

    def passed(self) -> list[str]:
        """Keys that were proved not too long ago."""
        entries = ((path.stem, self._read(path)) for path in self._files())
        return sorted(key for key, entry in entries if entry.get("passed"))

    def given_up(self, attempts: int) -> Mapping[str, str]:
        """Keys that failed `attempts` times or more, each with the last reason."""
        found = {path.stem: self.failures(path.stem) for path in self._files()}
        return {key: reason for key, (count, reason) in found.items() if count >= attempts}

    def failures(self, key: str) -> tuple[int, str]:
        """How often this key failed since it last passed, and why the last time."""
        entry = self._read(self.directory / f"{key}.json") if self.directory else {}
        return int(entry.get("failures", 0)), str(entry.get("reason", ""))

    def remember(self, key: str, problem: str | None) -> None:
        """Keeps one outcome."""
        if self.directory is None:
            return
        count = 0 if problem is None else self.failures(key)[0] + 1
        entry = {"passed": problem is None, "failures": count, "reason": problem or "", "at": time.time()}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self._files():
                if not self._read(path):
                    path.unlink(missing_ok=True)
            draft = self.directory / f"{key}.part"
            draft.write_text(json.dumps(entry))
            draft.replace(self.directory / f"{key}.json")
        except OSError as error:
            sys.stdout.write(f"efa-gate: the outcome cannot be kept: {error}\n")

    def _files(self) -> list[Path]:
        return list(self.directory.glob("*.json")) if self.directory and self.directory.is_dir() else []

    def _read(self, path: Path) -> Json:
        try:
            entry: Json = json.loads(path.read_text())
            return entry if 0 <= time.time() - float(entry["at"]) < self.keep_seconds else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def key_of(boots: Iterable[str], *what: object) -> str:
    """Names these machines since their boot, and what is proved on them."""
    return hashlib.sha256(json.dumps([sorted(boots), *map(str, what)]).encode()).hexdigest()[:32]
