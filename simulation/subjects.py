"""What a replay must know of a stack beside its Plan: objectives, lengths, and a replica of the performance model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.load import Catalog, load
from planner.cost.interruptions import hazard_of
from planner.disaggregation import Handoff, drafts_of, plan_handoffs, with_parts
from planner.drafts import Draft
from planner.model_performance import lengths_of, replica_for
from planner.performance import Replica, TokenLengths, capacity
from planner.plan import ModelPlan, Plan
from planner.planning import hardware_of
from planner.problems import Findings
from settings.root import Settings
from settings.target import EksTarget
from settings.traffic import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSubject:
    """A group of replicas: all of a model, or those of one of the two phases of a disaggregated one."""

    plan: ModelPlan
    replica: Replica
    input: TokenLengths
    output: TokenLengths
    """One token of those that only compute prompts."""
    cached_share: float
    prefilled: bool
    """Prompts come with their KV cache."""
    ttft_objective_ms: float
    """Of this group; of one of two it is a part of the model's."""
    tpot_objective_ms: float

    def full_rate(self) -> float:
        """Requests a second that all its replicas serve within the objectives, with scaling's margin."""
        most = capacity(
            self.replica,
            input=self.input,
            output=self.output,
            cached_share=self.cached_share,
            ttft_p99_ms=self.ttft_objective_ms,
            tpot_p99_ms=self.tpot_objective_ms,
            prefilled=self.prefilled,
        )
        return most.requests_per_second * self.plan.scaling.max_replicas * assumed("knee_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model of a stack."""

    answers: GroupSubject
    """The replicas that answer; of a disaggregated model the decode group."""
    prompts: GroupSubject | None = None
    """The prefill group of a disaggregated model."""
    handoff: Handoff | None = None
    """The way of the KV cache between the two."""
    ttft_objective_ms: float
    tpot_objective_ms: float
    busy_rate: float | None
    """Requests a second in the busy hours, of the stack file; None where it gives no traffic."""

    @property
    def plan(self) -> ModelPlan:
        """What clients call."""
        return self.answers.plan

    @property
    def replica(self) -> Replica:
        """One of those that answer."""
        return self.answers.replica

    @property
    def input(self) -> TokenLengths:
        """Of its prompts."""
        return self.answers.input

    @property
    def output(self) -> TokenLengths:
        """Of its answers."""
        return self.answers.output

    @property
    def cached_share(self) -> float:
        """Of its prompts."""
        return self.answers.cached_share

    @property
    def groups(self) -> tuple[GroupSubject, ...]:
        """In the order that a request goes through."""
        return (self.answers,) if self.prompts is None else (self.prompts, self.answers)

    def full_rate(self) -> float:
        """Requests a second that all replicas of every group serve within the objectives, with scaling's margin."""
        return min(group.full_rate() for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """How a rung loses nodes."""

    per_hour: float
    notice_seconds: float
    dry_seconds: float
    """How long it gives no new ones afterwards."""


def subjects_of(settings: Settings, plan: Plan, catalog: Catalog | None = None) -> dict[str, Subject]:
    """Every model of a stack by the name that clients call."""
    facts = catalog or load()
    findings = Findings()  # the stack has been planned: what is found was told
    on_eks = isinstance(settings.target, EksTarget)
    region = facts.regions.get(plan.region) if plan.region else None
    hardware = hardware_of(settings, facts, region, on_eks=on_eks, findings=findings)
    drafts = drafts_of(settings, hardware, facts, findings)
    pools = {pool.name: pool for pool in plan.pools}
    handoffs = plan_handoffs(drafts, pools, findings)
    planned = {model.name: model for model in plan.models}
    groups: dict[str, dict[bool, GroupSubject]] = {}
    for sketch in with_parts(drafts, handoffs):
        found = _group(sketch, planned[sketch.model.name], plan)
        groups.setdefault(sketch.serves, {})[sketch.role == "prefill"] = found
    asked: dict[str, Traffic | None] = {model.name: model.traffic for model in settings.models}
    promised = {model.name: model.objectives for model in settings.models}
    return {
        name: Subject(
            answers=own[False],
            prompts=own.get(True),
            handoff=handoffs.get(name),
            ttft_objective_ms=promised[name].ttft_p99_ms,
            tpot_objective_ms=promised[name].tpot_p99_ms,
            busy_rate=traffic.requests_per_second if (traffic := asked[name]) else None,
        )
        for name, own in groups.items()
    }


def _group(sketch: Draft, planned: ModelPlan, plan: Plan) -> GroupSubject:
    prompts, answers, cached = lengths_of(sketch)
    return GroupSubject(
        plan=planned,
        replica=replica_for(sketch, plan.pool(planned.pool), max_running=planned.max_running),
        input=prompts,
        output=answers,
        cached_share=cached,
        prefilled=sketch.role == "decode",
        ttft_objective_ms=sketch.model.objectives.ttft_p99_ms,
        tpot_objective_ms=sketch.model.objectives.tpot_p99_ms,
    )


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
