"""Faults that a rehearsal must notice: each changes exactly one thing in its temporary world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import yaml

from planner.plan import Plan, SecretPlan
from rehearsal.crds import Loader
from rehearsal.kube import Key
from rehearsal.nodes import EFA
from rehearsal.stages import JobOutcome

SLOW_FACTOR: Final = 6.0
"""Probes allow four times the planned start-up at most, or ten minutes (planner/patience.py): six times is beyond all
of them, on nodes that have the image, too."""
BROKEN_WEIGHTS: Final = 3
"""Exit code of the warm-up script for weights that are not what their manifest says (components/scripts)."""

_FOR_EVER: Final = 1e9
"""Planned seconds: longer than any rehearsal."""

_DEFINITION: Final = "podmonitors.monitoring.coreos.com"
_FIELD: Final = "podMetricsEndpoints"


class NotApplicableError(ValueError):
    """The stack has nothing that this fault could break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the stand-ins of one rehearsal are told; a fault is a change of one field."""

    plan: Plan
    absent_devices: frozenset[str] = frozenset()
    """Extended resources that nodes come without."""
    withheld: Key | None = None
    """Secret that is taken away."""
    capacity: Mapping[str, int] = field(default_factory=dict[str, int])
    """Machines that can be had, by rung; a rung that is not named has its maximum."""
    startup_factor: float = 1.0
    jobs: Mapping[str, JobOutcome] = field(default_factory=dict[str, JobOutcome])
    unstaged: frozenset[str] = frozenset()
    """Prefixes of revisions that the bucket of weights does not have."""
    unknown_field: bool = False
    """Whether the API server's PodMonitors lack a field that the program sets."""
    scenarios: tuple[str, ...] = ()
    """Failures that will be played."""
    no_evictions: bool = False
    """Whether disruption budgets let nobody go when a scenario begins."""
    no_keeper: bool = False
    """Whether the ladder keeper does not run."""
    nothing_comes: bool = False
    """Whether no rung gives another machine once a scenario begins."""

    @property
    def outcomes(self) -> Mapping[str, JobOutcome]:
        """How Jobs end; one whose revision is not staged waits for its manifest."""
        waiting = [one.name for one in self.plan.warmups if one.weights.object_prefix in self.unstaged]
        return {**self.jobs, **dict.fromkeys(waiting, JobOutcome(seconds=_FOR_EVER))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A fault and how it must show."""

    name: str
    breaks: str
    found_by: tuple[str, ...]
    """Checks of which one must report it."""
    change: Callable[[World], World]


def healthy_world(plan: Plan, capacity: Mapping[str, int]) -> World:
    """A world in which all goes as planned, but for machines that the caller withholds."""
    jobs = {warmup.name: JobOutcome(seconds=warmup.seconds) for warmup in plan.warmups}
    return World(plan=plan, jobs=jobs, capacity=capacity)


def planned_secrets(plan: Plan) -> list[SecretPlan]:
    """Every Secret that the plan counts on, each once."""
    # Ray Serve LLM checks no key, so a RayService has none.
    found = [model.api_key for model in plan.models if model.runtime != "ray_service"]
    found += [secret for secret in (plan.hub_token, plan.observability.grafana_admin) if secret is not None]
    found += [store.password for store in (plan.valkey, plan.kv_store) if store]
    found += plan.pull_secrets
    return list({(secret.namespace, secret.name, secret.key): secret for secret in found}.values())


def _withhold_secret(world: World) -> World:
    secret = planned_secrets(world.plan)[0]
    return replace(world, withheld=(secret.namespace, secret.name))


def _without_efa(world: World) -> World:
    if not any(pool.hardware.efa_devices for pool in world.plan.pools):
        raise NotApplicableError("no pool of this stack uses EFA")
    return replace(world, absent_devices=frozenset({EFA}))


def _wrong_weights(world: World) -> World:
    if not world.plan.warmups:
        raise NotApplicableError("this stack streams its weights: no warm-up Job checks them")
    first = world.plan.warmups[0]
    outcome = JobOutcome(
        seconds=first.seconds,
        exit_code=BROKEN_WEIGHTS,
        message="model-00001.safetensors: sha256 differs from the manifest",
    )
    return replace(world, jobs={**world.jobs, first.name: outcome})


def _not_staged(world: World) -> World:
    if not world.plan.cache.bucket:
        raise NotApplicableError("this stack has no bucket of weights: Jobs download them from the hub")
    return replace(world, unstaged=frozenset({world.plan.models[0].weights.object_prefix}))


def _no_capacity(world: World) -> World:
    rungs = [rung for pool in world.plan.pools for rung in pool.rungs if rung.kind != "existing"]
    if not rungs:
        raise NotApplicableError("the nodes of this stack exist already")
    return replace(world, capacity={rung.name: 0 for rung in rungs})


def _in_a_scenario(world: World, **change: bool) -> World:
    if not world.scenarios:
        raise NotApplicableError("it shows in a failure alone: add `--scenario`")
    return replace(world, **change)  # pyright: ignore[reportArgumentType]


def _no_evictions(world: World) -> World:
    if "spot-reclaim" not in world.scenarios:
        raise NotApplicableError("only a node that is drained evicts: add `--scenario spot-reclaim`")
    return replace(world, no_evictions=True)


def _no_keeper(world: World) -> World:
    if world.plan.ladder is None or world.plan.ladder.keeper is None:
        raise NotApplicableError("this stack needs no ladder keeper")
    return _in_a_scenario(world, no_keeper=True)


INJECTIONS: Final[Mapping[str, Injection]] = {
    injection.name: injection
    for injection in (
        Injection(
            name="missing-secret",
            breaks="one Secret that pods or charts read is not there",
            found_by=("secret",),
            change=_withhold_secret,
        ),
        Injection(
            name="efa-on-tcp",
            breaks="nodes come without their EFA devices",
            found_by=("efa",),
            change=_without_efa,
        ),
        Injection(
            name="checksum",
            breaks="weights differ from their manifest",
            found_by=("job",),
            change=_wrong_weights,
        ),
        Injection(
            name="not-staged",
            breaks="a revision is not in the bucket of weights",
            found_by=("model",),
            change=_not_staged,
        ),
        Injection(
            name="no-capacity",
            breaks="no rung of any pool has a machine",
            found_by=("capacity",),
            change=_no_capacity,
        ),
        Injection(
            name="slow-load",
            breaks=f"models take {SLOW_FACTOR:.0f} times as long to start as planned",
            found_by=("startup",),
            change=lambda world: replace(world, startup_factor=SLOW_FACTOR),
        ),
        Injection(
            name="unknown-field",
            breaks=f"the API server knows no field `{_FIELD}` of PodMonitors",
            found_by=("up", "second run"),
            change=lambda world: replace(world, unknown_field=True),
        ),
        Injection(
            name="no-evictions",
            breaks="disruption budgets let no pod go",
            found_by=("scenario",),
            change=_no_evictions,
        ),
        Injection(
            name="no-keeper",
            breaks="the ladder keeper does not run",
            found_by=("scenario",),
            change=_no_keeper,
        ),
        Injection(
            name="nothing-comes",
            breaks="no rung of any pool gives another machine",
            found_by=("scenario",),
            change=lambda world: _in_a_scenario(world, nothing_comes=True),
        ),
    )
}


def forget_field(charts: Path) -> None:
    """Takes the field out of the definition that a mirrored chart brings."""
    for file in charts.rglob("*.yaml"):
        text = file.read_text()
        if "CustomResourceDefinition" in text and f"name: {_DEFINITION}" in text:
            definition: Any = yaml.load(text, Loader)  # noqa: S506 - a subclass of the safe loader
            for version in definition["spec"]["versions"]:
                _forget(version["schema"])
            file.write_text(yaml.safe_dump(definition, sort_keys=False))
            return
    raise NotApplicableError(f"no chart of this stack brings {_DEFINITION}")


def _forget(schema: dict[str, Any]) -> None:
    whole = schema["openAPIV3Schema"]
    spec = cast("dict[str, Any] | None", whole.get("properties", {}).get("spec"))
    if spec is None or "properties" not in spec:
        # A permissive stand-in takes everything; one that knows the other field does not.
        selector = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        spec = {"type": "object", "properties": {"selector": selector}}
        schema["openAPIV3Schema"] = {"type": "object", "properties": {"spec": spec}}
        return
    spec["properties"].pop(_FIELD, None)
    spec["required"] = [name for name in spec.get("required", ()) if name != _FIELD]
