"""What a replay must know of a stack beside its Plan: objectives, lengths, and a replica of the performance model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.load import Catalog, load
from planner.cost.interruptions import hazard_of
from planner.drafts import draft
from planner.model_performance import lengths_of
from planner.performance import Replica, TokenLengths, capacity, matrix_precision, replica_of
from planner.plan import ModelPlan, Plan
from planner.pools import look_up
from planner.problems import Findings
from settings.root import Settings
from settings.target import EksTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model of a stack."""

    plan: ModelPlan
    replica: Replica
    ttft_objective_ms: float
    tpot_objective_ms: float
    input: TokenLengths
    output: TokenLengths
    cached_share: float
    busy_rate: float | None
    """Requests a second in the busy hours, of the stack file; None where it gives no traffic."""

    def full_rate(self) -> float:
        """Requests a second that all its replicas serve within the objectives, with scaling's margin."""
        most = capacity(
            self.replica,
            input=self.input,
            output=self.output,
            cached_share=self.cached_share,
            ttft_p99_ms=self.ttft_objective_ms,
            tpot_p99_ms=self.tpot_objective_ms,
        )
        return most.requests_per_second * self.plan.scaling.max_replicas * assumed("knee_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """How a rung loses nodes."""

    per_hour: float
    notice_seconds: float
    dry_seconds: float
    """How long it gives no new ones afterwards."""


def subjects_of(settings: Settings, plan: Plan, catalog: Catalog | None = None) -> dict[str, Subject]:
    """Every model of a stack by name, but those with prefill and decode apart."""
    facts = catalog or load()
    findings = Findings()
    on_eks = isinstance(settings.target, EksTarget)
    region = facts.regions.get(plan.region) if plan.region else None
    hardware = {
        pool.name: found
        for index, pool in enumerate(settings.pools)
        if (found := look_up(index, pool, facts, region, on_eks=on_eks, findings=findings))
    }
    planned = {model.name: model for model in plan.models}
    subjects: dict[str, Subject] = {}
    for index, model in enumerate(settings.models):
        if model.disaggregated is not None:
            continue  # two groups with a network between them are another queue
        sketch = draft(index, model, settings, hardware, facts, findings)
        assert sketch is not None  # noqa: S101 - the stack has been planned
        node = sketch.facts.node()
        replica = replica_of(
            sketch.card,
            node,
            sketch.fit,
            engine=model.engine,
            precision=matrix_precision(sketch.card, model.quantization),
            network_gbps=plan.pool(model.pool).hardware.network_gbps,
            max_running=planned[model.name].max_running,
            kv_bytes_per_value=sketch.serving.kv_bytes_per_value,
        )
        prompts, answers, cached = lengths_of(sketch)
        subjects[model.name] = Subject(
            plan=planned[model.name],
            replica=replica,
            ttft_objective_ms=model.objectives.ttft_p99_ms,
            tpot_objective_ms=model.objectives.tpot_p99_ms,
            input=prompts,
            output=answers,
            cached_share=cached,
            busy_rate=model.traffic.requests_per_second if model.traffic else None,
        )
    return subjects


def hazards_of(plan: Plan, *, spot_per_hour: float | None) -> Mapping[str, Hazard]:
    """By rung; `spot_per_hour` in place of the catalog's rate for spot. Nodes that exist are never lost."""
    found: dict[str, Hazard] = {}
    for pool in plan.pools:
        for rung in pool.rungs:
            if pool.hardware.instance_type is None or plan.region is None:
                continue
            known = hazard_of(rung, pool.hardware.instance_type, plan.region)
            given = spot_per_hour if rung.kind == "spot" else None
            found[rung.name] = Hazard(
                per_hour=known.per_hour if given is None else given,
                notice_seconds=known.notice_seconds,
                dry_seconds=known.hours_without * 3600,
            )
    return found
