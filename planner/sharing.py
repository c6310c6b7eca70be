"""Several small models on one GPU: what a slice of it has, what nodes and GPU operator are told, and what is refused.

A slice is planned like a GPU of its own: layouts, memory, requests, nodes and prices then follow as for whole ones. All
nodes offer slices as `nvidia.com/gpu` (MIG strategy `single`). Under the other strategy (`mixed`, one resource a
profile) cluster-autoscaler would take every MIG node for one whose GPUs never came up: it waits for `nvidia.com/gpu`
alone (processors/customresources/gpu_processor.go of kubernetes/autoscaler). The strategy is one for the whole cluster.

Nodes become ready before the operator has cut their GPUs (NVIDIA/gpu-operator#2670: a pod then takes a whole GPU and
blocks the cut), so pods of MIG pools ask for the label that says the cut is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from catalog.mig import MigGpu, mig_gpus
from catalog.types import Gpu, ModelCard
from planner.layout import Node, choose
from planner.memory import GIB, Serving
from planner.performance.step import chunk_tokens
from planner.plan import Hardware, MemoryBudget, PoolPlan, SharingPlan
from planner.problems import Findings
from settings.errors import Path
from settings.serving import Layout, Model
from settings.sharing import Mig, Sharing, TimeSlicing

PLUGIN_CONFIG_LABEL = "nvidia.com/device-plugin.config"
"""Node label: which entry of the device plugin's ConfigMap a node uses."""
MIG_CONFIG_LABEL = "nvidia.com/mig.config"
"""Node label: how MIG manager is to cut the node's GPUs; it makes `all-<profile>` from the hardware it finds."""
MIG_STATE_LABEL = "nvidia.com/mig.config.state"
"""Node label by which MIG manager says how far it is."""
MIG_DONE = "success"

_LEAST_MEMORY_GIB = 4
_SHARE_OF_MEMORY = 0.8
_MIG_NAME = re.compile(r"^(\d+)g\.(\d+)gb$")


def plan_sharing(
    path: Path,
    wanted: Sharing | None,
    gpu: Gpu,
    *,
    gpus: int,
    vcpus: int,
    memory_gib: float,
    provisioner: str,
    findings: Findings,
) -> SharingPlan | None:
    """How the GPUs of a pool's nodes are cut; None where they stay whole, or (with a problem) cannot be cut so.

    `gpus`, `vcpus` and `memory_gib` are those of the smallest node; `path` is the pool's.
    """
    if wanted is None:
        return None
    if isinstance(wanted, Mig):
        found = _mig(path, wanted, gpu, gpus=gpus, provisioner=provisioner, findings=findings)
        key = "profile"
    else:
        found = _time_slicing(path, wanted, gpus=gpus, findings=findings)
        key = "replicas"
    if found is None:
        return None
    # As planner.serving hands out CPUs and memory: a tenth and one CPU for the node, the rest in equal parts.
    most = min(int(vcpus * 0.9 - 1), int(memory_gib * _SHARE_OF_MEMORY / _LEAST_MEMORY_GIB))
    if found.slices > most:
        findings.problem(
            (*path, "sharing", key),
            f"{found.slices} slices on a node of {vcpus} vCPUs and {memory_gib:g} GiB: one needs a CPU and "
            f"{_LEAST_MEMORY_GIB} GiB at least",
            f"a node like this carries {most}: use a larger instance type or fewer slices",
        )
        return None
    if provisioner == "existing":
        labels = " ".join(f"{key}={value}" for key, value in found.node_labels.items())
        findings.remark(
            f"pools[{path[1]}].sharing", f"label the nodes once: kubectl label nodes -l <node_selector> {labels}"
        )
    return found


def _time_slicing(path: Path, wanted: TimeSlicing, *, gpus: int, findings: Findings) -> SharingPlan:
    name = f"time-slicing-{wanted.replicas}"
    findings.remark(
        f"pools[{path[1]}].sharing",
        "time slices isolate nothing: an engine that dies of memory may take its neighbors along, and a burst of one "
        "slows the others; speeds are planned for all of them busy",
    )
    return SharingPlan(
        kind="time_slicing",
        slices_per_gpu=wanted.replicas,
        gpus=gpus,
        profile=None,
        config=name,
        node_labels={PLUGIN_CONFIG_LABEL: name},
        later_labels={},
    )


def _mig(path: Path, wanted: Mig, gpu: Gpu, *, gpus: int, provisioner: str, findings: Findings) -> SharingPlan | None:
    known = mig_gpus().get(gpu.name)
    if known is None:
        findings.problem(
            (*path, "sharing", "kind"),
            f"{gpu.name} has no MIG, or none that the catalog knows",
            f"use `{{kind: time_slicing, replicas: 2}}`, or a GPU with MIG: {', '.join(mig_gpus())}",
        )
        return None
    if provisioner == "karpenter":
        findings.problem(
            (*path, "sharing", "kind"),
            "Karpenter makes no node for pods that wait for a label which a node gets only later, and without it a pod "
            "would take a whole GPU before MIG manager has cut it (NVIDIA/gpu-operator#2670)",
            "use `provisioner: node_group` for MIG, or time_slicing here",
        )
        return None
    profile = known.profiles.get(wanted.profile)
    if profile is None:
        findings.problem(
            (*path, "sharing", "profile"),
            f"{gpu.name} has no slices `{wanted.profile}`",
            f"did you mean `{nearest_profile(wanted.profile, known)}`? It has {', '.join(known.profiles)}",
        )
        return None
    if known.resets:
        findings.remark(
            f"pools[{path[1]}].sharing", f"{gpu.name} turns MIG on at a reboot: a new node takes one before it serves"
        )
    return SharingPlan(
        kind="mig",
        slices_per_gpu=profile.instances,
        gpus=gpus,
        profile=wanted.profile,
        config=None,
        node_labels={MIG_CONFIG_LABEL: f"all-{wanted.profile}"},
        later_labels={MIG_STATE_LABEL: MIG_DONE},
        reboots=known.resets,
    )


def nearest_profile(name: str, gpu: MigGpu) -> str:
    """The profile of a GPU that is nearest in memory, then in compute slices."""
    compute, memory = _parts(name)
    return min(gpu.profiles, key=lambda known: (abs(_parts(known)[1] - memory), abs(_parts(known)[0] - compute)))


def _parts(name: str) -> tuple[int, int]:
    match = _MIG_NAME.match(name)
    assert match is not None  # noqa: S101 - the settings hold the pattern, and the catalog's names are tested
    return int(match[1]), int(match[2])


def slice_of(gpu: Gpu, sharing: SharingPlan | None) -> Gpu:
    """One slice as a GPU of its own: a time slice has an equal part of everything (all neighbors busy), a partition
    what NVIDIA gives it."""
    if sharing is None:
        return gpu
    if sharing.profile is None:
        part = 1 / sharing.slices_per_gpu
        return _scaled(gpu, memory_mib=int(gpu.memory_mib * part), bandwidth=part, arithmetic=part)
    known = mig_gpus()[gpu.name]
    profile = known.profiles[sharing.profile]
    return _scaled(
        gpu,
        memory_mib=int(profile.memory_gib * 1024),
        bandwidth=profile.memory_eighths / 8,
        arithmetic=profile.sms / known.sms,
    )


def _scaled(gpu: Gpu, *, memory_mib: int, bandwidth: float, arithmetic: float) -> Gpu:
    return replace(
        gpu,
        memory_mib=memory_mib,
        hbm_gb_per_s=gpu.hbm_gb_per_s * bandwidth,
        bf16_tflops=gpu.bf16_tflops * arithmetic,
        fp8_tflops=gpu.fp8_tflops * arithmetic if gpu.fp8_tflops else None,
        fp4_tflops=gpu.fp4_tflops * arithmetic if gpu.fp4_tflops else None,
        nvlink_gb_per_s=0,
    )


def node_of_slices(node: Node, sharing: SharingPlan | None) -> Node:
    """What layouts see of a node whose GPUs are cut: one slice, since no model spans two."""
    if sharing is None:
        return node
    return replace(node, gpus=1, nvlink=False, gdr=False, name=f"{node.name}, {sharing.words}")


def cut(pool: PoolPlan, sharing: SharingPlan | None) -> PoolPlan:
    """The pool with its nodes' slices in place of GPUs, and the labels that have them made."""
    if sharing is None:
        return pool
    hardware: Hardware = replace(pool.hardware, gpus=sharing.slices)
    selector = {**pool.node_selector, **sharing.later_labels}
    rungs = tuple(
        rung if rung.kind == "existing" else replace(rung, labels={**rung.labels, **sharing.node_labels})
        for rung in pool.rungs
    )
    return replace(pool, hardware=hardware, node_selector=selector, rungs=rungs, sharing=sharing)


def refuses(
    path: Path,
    model: Model,
    card: ModelCard,
    node: Node,
    serving: Serving | None,
    sharing: SharingPlan,
    whole: Gpu,
    findings: Findings,
) -> bool:
    """Whether a model cannot run on a pool of slices of a `whole` GPU; says why, and what would do.

    `serving` is None where nobody can say what memory must hold.
    """
    found = list(_refusals(model, card, node, serving, sharing, whole))
    for key, message, help_text in found:
        findings.problem((*path, key), message, help_text)
    return bool(found)


def _refusals(
    model: Model, card: ModelCard, node: Node, serving: Serving | None, sharing: SharingPlan, whole: Gpu
) -> Iterator[tuple[str, str, str]]:
    if isinstance(model.layout, Layout) and (ranks := model.layout.tensor * model.layout.pipeline) > 1:
        yield (
            "layout",
            f"{ranks} ranks on a pool of slices ({sharing.words}): slices have no path to one another, and two of a "
            "card would only split what it has",
            "use tensor 1, or a pool without `sharing`",
        )
    if sharing.kind == "time_slicing" and model.engine == "sglang":
        yield (
            "engine",
            "SGLang takes a share of what is free when it starts, so on a GPU in time slices its memory would depend "
            "on who starts first",
            "use engine vllm, or slices that are partitions (`kind: mig`)",
        )
    if serving is not None and choose(card, node, serving) is None:
        yield (
            "pool",
            f"{card.name} ({serving.weights_gb:.1f} GB of weights, {serving.context_tokens} tokens of context) does "
            f"not fit a slice of {node.gpu.memory_gib:.1f} GiB ({node.name})",
            what_fits(card, whole, node, serving, sharing)
            or f"not even a whole {whole.name} would do: use a pool without `sharing`, for tensor parallel",
        )


def what_fits(card: ModelCard, gpu: Gpu, node: Node, serving: Serving, sharing: SharingPlan) -> str | None:
    """The nearest cut of the whole `gpu` on which a model fits that is too large for a slice; None: not even whole."""
    for words, smaller in _larger_slices(gpu, sharing):
        if choose(card, replace(node, gpu=smaller), serving) is not None:
            return words
    return None


def _larger_slices(gpu: Gpu, sharing: SharingPlan) -> Iterator[tuple[str, Gpu]]:
    if sharing.kind == "mig":
        profiles = mig_gpus()[gpu.name].profiles
        for name in sorted(profiles, key=lambda name: profiles[name].memory_gib):
            plan = replace(sharing, profile=name, slices_per_gpu=profiles[name].instances)
            yield f"profile `{name}` would do ({plan.slices_per_gpu} a GPU)", slice_of(gpu, plan)
    else:
        for replicas in range(sharing.slices_per_gpu - 1, 1, -1):
            plan = replace(sharing, slices_per_gpu=replicas)
            yield f"`replicas: {replicas}` would do", slice_of(gpu, plan)
    yield f"a whole {gpu.name} would do: leave `sharing` out", gpu


def share_of_card(sharing: SharingPlan | None) -> float:
    """Part of the card's memory that an engine may fill: time slices see the whole card, partitions only themselves."""
    return 1 / sharing.slices_per_gpu if sharing is not None and sharing.kind == "time_slicing" else 1.0


def kv_cache_bytes(memory: MemoryBudget, sharing: SharingPlan | None) -> int | None:
    """Size of the KV cache that an engine is given; None where it may measure what is left by itself."""
    return int(memory.kv_gib * GIB) if sharing is not None and sharing.kind == "time_slicing" else None


def step_tokens(gpu: Gpu, sharing: SharingPlan | None) -> int | None:
    """Tokens of one step that an engine is held to; None where its own default is the one that memory was planned for.

    vLLM's default goes by the memory of the whole card, which a time slice sees.
    """
    return chunk_tokens("vllm", gpu) if sharing is not None and sharing.kind == "time_slicing" else None


def cost_of_replica(pool: PoolPlan, sharing: SharingPlan) -> str:
    """What one replica on a pool of slices takes and costs, in words."""
    part = f"{sharing.words}: a replica takes 1/{pool.hardware.gpus} of a node"
    prices = {rung.usd_per_node_hour for rung in pool.rungs}
    if not any(prices):
        return part
    usd = max(prices)
    return f"{part}, at most {usd / pool.hardware.gpus:.2f} of its {usd:.2f} $ an hour while all slices are in use"
