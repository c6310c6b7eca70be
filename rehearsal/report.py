"""What a rehearsal saw, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.plan import CostPlan, Plan
from rehearsal.engines.contract import ResourceRecord
from rehearsal.fidelity import Part
from rehearsal.findings import Finding
from rehearsal.kube import key_of
from rehearsal.nodes import GPU, GROUP_ANNOTATION
from rehearsal.pods import is_ready
from rehearsal.quantities import requests_of
from rehearsal.scenarios.results import ScenarioResult
from rehearsal.settle import ModelState
from rehearsal.snapshot import Snapshot

OK, FINDINGS, USAGE, ENVIRONMENT = 0, 1, 2, 3
"""Exit codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of the rehearsal."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRow:
    """A pod and where it runs."""

    namespace: str
    name: str
    ready: bool
    phase: str
    pool: str | None
    """None for system nodes, and for pods without a node."""
    rung: str | None
    node: str | None
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """GPUs of a pool."""

    pool: str
    nodes: int
    gpus_there: int
    gpus_asked: int
    gpus_given: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One rehearsal."""

    stack: str
    environment: str
    engine: str
    kubernetes_version: str
    compression: float
    """Planned seconds for each rehearsed second."""
    injected: str | None
    resources: Mapping[str, int]
    """By Pulumi type."""
    models: tuple[ModelState, ...]
    pods: tuple[PodRow, ...]
    pools: tuple[PoolUse, ...]
    autoscalers: tuple[str, ...]
    """`namespace/name -> target (min to max)` of each HorizontalPodAutoscaler."""
    notes: tuple[str, ...]
    cost: CostPlan
    fidelity: tuple[Part, ...]
    phases: tuple[Phase, ...]
    findings: tuple[Finding, ...]
    scenarios: tuple[ScenarioResult, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """For the command line."""
        return OK if self.ok else FINDINGS


def count_resources(records: tuple[ResourceRecord, ...]) -> dict[str, int]:
    """Resources by Pulumi type, components and providers left out, the most first."""
    counts: dict[str, int] = {}
    for record in records:
        if record.custom and not record.type.startswith("pulumi:"):
            counts[record.type] = counts.get(record.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def pod_rows(snapshot: Snapshot, plan: Plan) -> tuple[PodRow, ...]:
    """Every pod, those with GPUs first."""
    pool_of = {rung.name: pool.name for pool in plan.pools for rung in pool.rungs}
    rows: list[PodRow] = []
    for pod in snapshot.all("Pod"):
        node = snapshot.get("Node", "", pod["spec"].get("nodeName", ""))
        group = node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION) if node else None
        namespace, name = key_of(pod)
        rows.append(
            PodRow(
                namespace=namespace,
                name=name,
                ready=is_ready(pod),
                phase=pod.get("status", {}).get("phase", "Pending"),
                pool=pool_of.get(group or ""),
                rung=group,
                node=node["metadata"]["name"] if node else None,
                gpus=int(requests_of(pod).get(GPU, 0)),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.gpus, row.namespace, row.name)))


def pool_uses(snapshot: Snapshot, plan: Plan, rows: tuple[PodRow, ...]) -> tuple[PoolUse, ...]:
    """GPUs asked for and given, by pool."""
    nodes = [node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION) for node in snapshot.all("Node")]
    uses: list[PoolUse] = []
    for pool in plan.pools:
        count = sum(nodes.count(rung.name) for rung in pool.rungs)
        asked = sum(model.layout.gpus * model.scaling.min_replicas for model in plan.models if model.pool == pool.name)
        given = sum(row.gpus for row in rows if row.pool == pool.name and row.phase not in {"Succeeded", "Failed"})
        uses.append(
            PoolUse(
                pool=pool.name,
                nodes=count,
                gpus_there=count * pool.hardware.gpus,
                gpus_asked=asked,
                gpus_given=given,
            )
        )
    return tuple(uses)


def autoscaler_lines(snapshot: Snapshot) -> tuple[str, ...]:
    """HorizontalPodAutoscalers in words."""
    lines: list[str] = []
    for item in snapshot.all("HorizontalPodAutoscaler"):
        spec, target = item["spec"], item["spec"]["scaleTargetRef"]
        span = f"{spec.get('minReplicas', 1)} to {spec['maxReplicas']}"
        lines.append(f"{'/'.join(key_of(item))} -> {target['kind']} {target['name']} ({span})")
    return tuple(lines)
