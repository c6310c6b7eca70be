"""Elastic Fabric Adapter: the interfaces of a node, the pods that fit beside them, and what proves that it works."""

from __future__ import annotations

import math
from typing import Literal

from catalog.assumptions import assumed
from catalog.efa import reference
from catalog.types import Instance
from planner.plan import EfaGatePlan, LayoutPlan, NetworkInterfacePlan, PoolPlan
from planner.problems import Findings
from settings.errors import Path
from settings.serving import EfaGateMode

GATE_PORT = 20010
"""Where the pods of a group tell each other what they found; the next port is the one of NCCL's rendezvous."""

HUGEPAGES_NODE_MIB = 10256
"""5128 pages of 2 MiB that the AMI sets aside where it finds EFA devices. Source: EKS user guide, EFA on AL2023
accelerated AMIs."""

HUGEPAGES_POD_MIB = 5120
"""Huge pages of a pod that uses EFA: libfabric's registered buffers. Source: as above, the example of a pod."""

# EKS caps maxPods of managed node groups: 110 below 30 vCPUs, else 250, with and without prefix delegation. Source: EKS
# user guide, "Increase the available IP addresses for your Amazon EKS node".
_SMALL_NODE_VCPUS = 30
_MAX_PODS_SMALL, _MAX_PODS_LARGE = 110, 250

# A pod whose peers have no node yet only waits; what ends the wait is capacity, or the release of a group that stalls.
_PEERS_TIMEOUT_SECONDS = 24 * 3600
_ATTEMPTS = 3
# A start of the same pods on the same machines within a day needs no second proof; a reboot makes the first one void.
_CACHE_SECONDS = 24 * 3600
_HOLD_SECONDS = 600
_NO_FLOOR = "none: the provider alone decides"


def efa_interfaces(instance: Instance) -> tuple[NetworkInterfacePlan, ...]:
    """Interfaces of a node whose pods use EFA.

    Card 0 carries IP traffic as well, so it is `efa` (or a plain interface where the card takes no EFA, p6-b300); the
    other cards are `efa-only`, which burns no addresses. Checked for every type against the limits that EC2 states of
    each card (tests/infra/test_aws_efa.py).
    """
    first = NetworkInterfacePlan(
        card_index=0, device_index=0, interface_type="interface" if instance.card0_is_ena_only else "efa"
    )
    others = (
        NetworkInterfacePlan(card_index=card, device_index=1, interface_type="efa-only")
        for card in range(1, instance.network_cards)
    )
    return (first, *others)


def efa_devices(pool: PoolPlan, gpus: int) -> int:
    """EFA devices of a pod with so many of a node's GPUs: its share."""
    return pool.hardware.efa_devices * gpus // pool.hardware.gpus


def hugepages_mib(pool: PoolPlan, gpus: int) -> int:
    """Huge pages of such a pod: what AWS gives one in its example, or its share of the node where that is less."""
    return min(HUGEPAGES_POD_MIB, HUGEPAGES_NODE_MIB * gpus // pool.hardware.gpus // 2 * 2)


def max_pods(instance: Instance) -> int:
    """Pods that a managed node takes: what the addresses of card 0 serve, or EKS's cap where that is lower."""
    cap = _MAX_PODS_SMALL if instance.vcpus < _SMALL_NODE_VCPUS else _MAX_PODS_LARGE
    return min(instance.max_pods, cap)


def plan_gate(
    wanted: EfaGateMode,
    layout: LayoutPlan,
    pool: PoolPlan,
    *,
    runtime: str,
    moves_cache: bool,
    path: Path,
    findings: Findings,
) -> EfaGatePlan | None:
    """The check that pods pass before their engine starts; None where they do not use EFA.

    `moves_cache`: whether they hand a KV cache on, or take one, as the groups of a disaggregated model do.
    """
    across = layout.nodes > 1
    if not (across or moves_cache) or not pool.hardware.efa_devices:
        return None
    if wanted == "off":
        findings.remark(f"models[{path[1]}]", "no EFA gate: a fall back to TCP would show as slow tokens alone")
        return None
    mode = _mode(wanted, runtime, path, findings, across=across)
    floor, note = reference_floor(pool.hardware.instance_type) if mode == "all_reduce" else (None, _NO_FLOOR)
    seconds = assumed("efa_gate_seconds_all_reduce" if mode == "all_reduce" else "efa_gate_seconds_provider")
    return EfaGatePlan(
        mode=mode,
        devices=efa_devices(pool, layout.gpus_per_node),
        gpus=layout.gpus_per_node,
        nodes=layout.nodes,
        floor_gb_per_s=floor,
        floor_note=note,
        gdr=pool.hardware.gdr,
        seconds=math.ceil(seconds),
        # Ten times what it should take: a slow image or a busy host is no fallback, a hang is.
        timeout_seconds=max(120, 10 * math.ceil(seconds)),
        peers_timeout_seconds=_PEERS_TIMEOUT_SECONDS,
        attempts=_ATTEMPTS,
        hold_seconds=_HOLD_SECONDS,
        # A pod on a part of a node says nothing about its neighbors' devices, and is quickly asked again.
        cache_seconds=_CACHE_SECONDS if across else 0,
        port=GATE_PORT,
    )


def reference_floor(instance_type: str | None) -> tuple[float | None, str]:
    """Least bus bandwidth of an all-reduce of 1 GiB over nodes of a type, in GB/s, and where it comes from."""
    known = reference(instance_type)
    if known is None:
        return None, _NO_FLOOR
    share = assumed("efa_gate_floor_share")
    return round(known.all_reduce_gb_per_s * share, 1), (
        f"{share:.0%} of {known.all_reduce_gb_per_s:g} GB/s ({known.evidence}: {known.source})"
    )


def gate_words(gate: EfaGatePlan, pool: str) -> str:
    """What the gate proves, and what it cannot."""
    if gate.mode == "all_reduce":
        return f"all-reduce: NCCL names EFA on each of {gate.nodes} nodes and is fast ({gate.floor_note})"
    own = f"provider: libfabric opens the pod's {gate.devices} EFA device(s)"
    if gate.nodes > 1:
        return own
    return (
        f"{own}; the way to the other group is not proved: its pods come and go by themselves, and what could measure "
        f"it (nixlbench) is in no image. `ops efa-test --pool {pool}` measures between two nodes, and KvTransferFails "
        "and KvTransferSlow call where the caches do not go over EFA"
    )


def _mode(
    wanted: EfaGateMode, runtime: str, path: Path, findings: Findings, *, across: bool
) -> Literal["all_reduce", "provider"]:
    """`all_reduce` needs a leader that the others can find by name, which LeaderWorkerSet gives and Ray does not."""
    if not across:
        if wanted == "all_reduce":
            findings.problem(
                path,
                "each replica is on one node, where NCCL uses NVLink: an all-reduce would prove nothing about the way "
                "of the KV cache",
                "use `efa_gate: provider`, which `auto` is here, and measure with `ops efa-test`",
            )
        return "provider"
    if runtime != "ray_service":
        return "provider" if wanted == "provider" else "all_reduce"
    if wanted == "all_reduce":
        findings.problem(
            path,
            "the hosts of a Ray replica do not know each other before Ray runs, so no all-reduce can precede it",
            "use `efa_gate: provider` (devices and provider of each host), or runtime leader_worker_set",
        )
    return "provider"
