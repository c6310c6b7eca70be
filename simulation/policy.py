"""What of a stack file a replay may change: scaling, and nodes that always run. The planner makes each Plan anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner import Plan, plan
from planner.disaggregation import prefill_name
from settings.root import Settings
from settings.serving import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A scheduled minimum of replicas, as the stack file writes it."""

    timezone: str
    start: str
    end: str
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """Scaling of one model; None leaves a setting as it is."""

    min_replicas: int | None = None
    target_concurrency: int | None = None
    scale_up_replicas: int | None = None
    floors: tuple[Floor, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Changes to a stack file."""

    models: Mapping[str, ModelPolicy] = field(default_factory=dict[str, ModelPolicy])
    """By name in the Plan: the prefill group of a disaggregated model has one of its own, which says `min_replicas`
    alone."""
    rungs: Mapping[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """(pool, position on its ladder) -> nodes that always run."""


def changes(settings: Settings, policy: Policy) -> dict[str, list[dict[str, Any]]]:
    """The changed entries of the stack file, each with its name and whole sections; what stays as it is is left out."""
    found: dict[str, list[dict[str, Any]]] = {"models": [], "pools": []}
    for model in settings.models:
        entry = _model_changes(model, policy)
        if entry:
            found["models"].append({"name": model.name, **entry})
    for pool in settings.pools:
        capacity = [rung.model_dump(mode="json", exclude_unset=True) for rung in getattr(pool, "capacity", ())]
        changed = False
        for position, rung in enumerate(capacity):
            nodes = policy.rungs.get((pool.name, position))
            if nodes is not None and nodes != rung["nodes"].get("min", 0):
                rung["nodes"]["min"] = nodes
                changed = True
        if changed:
            found["pools"].append({"name": pool.name, "capacity": capacity})
    return {key: entries for key, entries in found.items() if entries}


def _model_changes(model: Model, whole: Policy) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    policy = whole.models.get(model.name, ModelPolicy())
    least = policy.min_replicas
    if model.disaggregated is not None:
        entry |= _group_changes(model, whole)
    elif least is not None and least != model.replicas.min:
        entry["replicas"] = {"min": least, "max": model.replicas.max}
    before = model.autoscaling.model_dump(mode="json", exclude_unset=True)
    after = dict(before)
    if policy.target_concurrency is not None:
        after["target_concurrency"] = policy.target_concurrency
    if policy.scale_up_replicas is not None:
        after["scale_up_replicas"] = policy.scale_up_replicas
    if policy.floors is not None:
        after["floors"] = [
            {"timezone": f.timezone, "start": f.start, "end": f.end, "replicas": f.replicas} for f in policy.floors
        ]
        if not after["floors"]:
            del after["floors"]
    if after != before:
        entry["autoscaling"] = after
    return entry


def _group_changes(model: Model, whole: Policy) -> dict[str, Any]:
    """The whole section with other minimums."""
    assert model.disaggregated is not None  # noqa: S101 - the caller has looked
    section = model.disaggregated.model_dump(mode="json", exclude_unset=True)
    changed = False
    for role, name in (("prefill", prefill_name(model.name)), ("decode", model.name)):
        replicas = getattr(model.disaggregated, role).replicas
        least = whole.models.get(name, ModelPolicy()).min_replicas
        if least is not None and least != replicas.min:
            section[role] = {**section.get(role, {}), "replicas": {"min": least, "max": replicas.max}}
            changed = True
    return {"disaggregated": section} if changed else {}


def merged(document: Mapping[str, Any], changed: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A platform section with the changed entries of its named lists in place of its own keys."""
    result = dict(document)
    for key, entries in changed.items():
        by_name = {entry["name"]: entry for entry in entries}
        result[key] = [{**item, **by_name.get(item["name"], {})} for item in document[key]]
    return result


def applied(settings: Settings, base: Plan, policy: Policy) -> Plan:
    """The Plan of the changed stack file; raises PlanError where the planner refuses it."""
    document = settings.model_dump(mode="json", exclude_unset=True)
    changed = Settings.model_validate(merged(document, changes(settings, policy)))
    return plan(changed, stack=base.stack, region=base.region)
