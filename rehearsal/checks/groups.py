"""Groups of pods that serve one replica together: same devices, one rung, the right pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.naming import MODEL_LABEL
from planner.plan import ModelPlan, Plan
from rehearsal.findings import Finding
from rehearsal.kube import Json, key_of
from rehearsal.kubelet import GROUP_KEY
from rehearsal.kuberay import REPLICA
from rehearsal.nodes import EFA, GPU, GROUP_ANNOTATION
from rehearsal.quantities import amount, requests_of
from rehearsal.snapshot import Snapshot, subject

_HUGE_PAGES: Final = "hugepages-2Mi"


def same_devices(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """Every pod of a replica over several nodes asks for all EFA devices of its node, and huge pages for them.

    A pod that hands its KV cache on takes its share of them, by GPUs.
    """
    for model in plan.models:
        hardware = plan.pool(model.pool).hardware
        devices = hardware.efa_devices
        if model.disaggregation is not None and model.layout.nodes == 1:
            devices = devices * model.layout.gpus_per_node // hardware.gpus
        elif model.layout.nodes == 1:
            continue
        if not devices:
            continue
        for pod in _pods(snapshot, model):
            wanted = requests_of(pod)
            if wanted.get(EFA, 0) != devices:
                yield Finding(
                    check="efa",
                    subject=subject("Pod", key_of(pod)),
                    field=f"resources.limits.{EFA}",
                    problem=f"asks for {wanted.get(EFA, 0):.0f} EFA devices while its nodes have {devices} for it: "
                    "traffic between the nodes would fall back to TCP",
                    remedy="let every pod of the group ask for all of them",
                )
            elif not wanted.get(_HUGE_PAGES):
                yield Finding(
                    check="efa",
                    subject=subject("Pod", key_of(pod)),
                    field=f"resources.limits.{_HUGE_PAGES}",
                    problem="asks for EFA devices but for no huge pages, which libfabric's EFA provider allocates",
                    remedy="request huge pages of 2 MiB",
                )


def devices_on_nodes(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """Nodes offer the GPUs and the EFA devices that the plan counts on."""
    planned = {rung.name: pool for pool in plan.pools for rung in pool.rungs}
    for node in snapshot.all("Node"):
        group = node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION, "")
        pool = planned.get(group)
        if pool is None:
            continue
        for device, count in ((GPU, pool.hardware.gpus), (EFA, pool.hardware.efa_devices)):
            offered = amount(node["status"]["allocatable"].get(device, 0))
            if offered != count:
                effect = ": its pods would talk over TCP, or never be scheduled" if device == EFA else ""
                yield Finding(
                    check="efa" if device == EFA else "gpu",
                    subject=f"nodes of {group}",
                    field=f"status.allocatable.{device}",
                    problem=f"offer {offered:.0f} {device} while the plan of pool {pool.name} says {count}{effect}",
                    remedy="install the device plugin on these nodes, and look at the launch template's interfaces",
                )


def one_rung(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """All pods of a replica run on one rung of their pool."""
    for model in plan.models:
        groups: dict[str, set[str]] = {}
        for pod in _pods(snapshot, model):
            labels = pod["metadata"]["labels"]
            key = labels.get(GROUP_KEY) or labels.get(REPLICA)
            if key and (group := _node_group(snapshot, pod)):
                groups.setdefault(key, set()).add(group)
        for rungs in groups.values():
            if len(rungs) > 1:
                yield Finding(
                    check="rung",
                    subject=f"model {model.name}",
                    field="affinity.podAffinity",
                    problem=f"one replica is spread over {', '.join(sorted(rungs))}",
                    remedy="require affinity on the rung label inside the group",
                )


def own_pool(snapshot: Snapshot, plan: Plan) -> Iterator[Finding]:
    """Pods with GPUs run on nodes of their model's pool."""
    for model in plan.models:
        rungs = {rung.name for rung in plan.pool(model.pool).rungs}
        for pod in _pods(snapshot, model):
            group = _node_group(snapshot, pod)
            if group and group not in rungs:
                yield Finding(
                    check="pool",
                    subject=subject("Pod", key_of(pod)),
                    field="nodeSelector",
                    problem=f"runs on {group}, which is not of pool {model.pool}",
                    remedy="select the labels of the pool's nodes",
                )


def _pods(snapshot: Snapshot, model: ModelPlan) -> Iterator[Json]:
    """A model's pods with GPUs."""
    for pod in snapshot.all("Pod"):
        labels = pod["metadata"].get("labels", {})
        mine = labels.get(MODEL_LABEL) == model.name and pod["metadata"]["namespace"] == model.namespace
        if mine and requests_of(pod).get(GPU):
            yield pod


def _node_group(snapshot: Snapshot, pod: Json) -> str | None:
    node = snapshot.get("Node", "", pod["spec"].get("nodeName", ""))
    return node["metadata"].get("annotations", {}).get(GROUP_ANNOTATION) if node else None
