"""What the runs of a rehearsal must hold: no error, nothing unforeseen, nothing twice, nothing left."""

from __future__ import annotations

import time
from typing import Final

from rehearsal.engines.contract import RunResult
from rehearsal.findings import Finding
from rehearsal.kube import Kube
from rehearsal.snapshot import Snapshot, subject

_LEFTOVER_SECONDS: Final = 45.0
_POLL_SECONDS: Final = 0.25
# Belong to nodes and to the cluster itself, and come and go without the program.
_NOT_OURS: Final = {"Node", "CSINode", "APIService", "VolumeAttachment"}
_SHOWN: Final = 8


def errors(what: str, result: RunResult) -> list[Finding]:
    """The errors of a failed run."""
    if result.ok:
        return []
    return [
        Finding(check=what, subject=f"pulumi {what}", field="", problem=text, remedy="mend the program or the plan")
        for text in result.problems or ("failed without a word",)
    ]


def unforeseen(preview: RunResult, up: RunResult) -> list[Finding]:
    """The first preview lists exactly what `up` then creates."""
    if not preview.ok:
        return []
    foreseen = {change.urn for change in preview.of("create")}
    created = {change.urn for change in up.of("create")}
    return [
        Finding(
            check="preview",
            subject=urn,
            field="",
            problem="was created but not previewed" if urn in created else "was previewed but not created",
            remedy="declare it outside of `apply`, whatever is unknown",
        )
        for urn in sorted(foreseen ^ created)
    ]


def changed_again(again: RunResult) -> list[Finding]:
    """A second run finds nothing to do."""
    return [
        Finding(
            check="second run",
            subject=change.urn,
            field=", ".join(change.diff_keys),
            problem=f"a second run without any change would {change.operation} it",
            remedy="declare what the API server answers, or ignore what others own",
        )
        for change in again.of("create", "update", "replace", "delete")
    ]


def leftovers(kube: Kube, baseline: set[tuple[str, str, str]]) -> list[Finding]:
    """After destroy there is nothing that was not there before `up`; what still drains is given a moment."""
    until = time.monotonic() + _LEFTOVER_SECONDS
    while True:
        snapshot = Snapshot.take(kube)
        left = sorted(key for key in snapshot.keys() - baseline if key[0] not in _NOT_OURS)
        if not left or time.monotonic() > until:
            break
        time.sleep(_POLL_SECONDS)
    found: list[Finding] = []
    for kind, namespace, name in left[:_SHOWN]:
        item = snapshot.get(kind, namespace, name) or {}
        parts: list[dict[str, list[str]]] = [item.get("metadata", {}), item.get("spec", {})]
        held_by = [finalizer for part in parts for finalizer in part.get("finalizers", [])]
        more = f" (and {len(left) - _SHOWN} more objects)" if len(left) > _SHOWN else ""
        found.append(
            Finding(
                check="leftover",
                subject=subject(kind, (namespace, name)),
                field="metadata.finalizers" if held_by else "",
                problem="is still there after destroy" + (f", held by {', '.join(held_by)}" if held_by else "") + more,
                remedy="let something of the program own it, and delete it before what serves its finalizer",
            )
        )
    return found
