"""What a run would do to a resource that exists: nothing, an update in place, or a replacement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rehearsal.aws import simulated
from rehearsal.aws_plugin.diff import changed_paths
from rehearsal.engines import kubernetes_rules, paths, values
from rehearsal.engines.program import Registration
from rehearsal.engines.state import Entry
from rehearsal.engines.values import Properties


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with a resource.

    Attributes:
        operation: what it comes to.
        inputs: the declared inputs, with ignored fields as they were.
        diff_keys: paths of the inputs that changed, sorted.
        replace_keys: those among them that need a replacement.
    """

    operation: Literal["create", "same", "update", "replace"]
    inputs: Properties
    diff_keys: tuple[str, ...] = ()
    replace_keys: tuple[str, ...] = ()


def decide(registration: Registration, old: Entry | None, provider_inputs: Properties) -> Decision:
    """Compares what the program declares with what the state holds.

    Args:
        registration: as declared now.
        old: as the last run left it; None where it is new.
        provider_inputs: of the resource's provider, in clear.
    """
    if old is None:
        return Decision(operation="create", inputs=registration.inputs)
    inputs = with_ignored(registration.inputs, old.inputs, registration.ignore_changes)
    changed = sorted(changed_paths(values.reveal(old.inputs), values.reveal(inputs)))
    replacing = _within(changed, _replacing(registration, old, inputs, provider_inputs))
    if registration.provider and old.provider and registration.provider != old.provider:
        changed, replacing = [*changed, "provider"], [*replacing, "provider"]
    operation = "replace" if replacing else "update" if changed else "same"
    return Decision(operation=operation, inputs=inputs, diff_keys=tuple(changed), replace_keys=tuple(replacing))


def with_ignored(new: Properties, old: Properties, ignored: Iterable[str]) -> Properties:
    """The new inputs with each ignored path as it was: kept where the state has it, left out where it has not."""
    result = new
    for text in ignored:
        path = paths.parse(text)
        before = paths.get(old, path)
        result = paths.remove(result, path) if before is None else paths.put(result, path, before)
    return result


def _replacing(registration: Registration, old: Entry, new: Properties, provider: Properties) -> list[str]:
    keys = list(registration.replace_on_changes)
    kind = registration.type
    if simulated.is_aws(kind):
        keys += simulated.replacing_changes(kind, values.reveal(old.inputs), values.reveal(new))
    elif kind == kubernetes_rules.RELEASE:
        keys += ["name", "namespace"]  # helm_release.go: forceNewFields
    elif kubernetes_rules.is_object(kind):
        keys += kubernetes_rules.replaces_on(values.reveal(new), provider)
    elif kind == "pulumi:providers:kubernetes":
        # provider.go: DiffConfig. With an identifier only the identifier counts, without one any kubeconfig does.
        keys.append("clusterIdentifier" if new.get("clusterIdentifier") else "kubeconfig")
    return keys


def _within(changed: list[str], keys: list[str]) -> list[str]:
    """The changed paths that are a key, inside one, or around one."""
    return [
        path
        for path in changed
        if any(path == key or path.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{path}.") for key in keys)
    ]
