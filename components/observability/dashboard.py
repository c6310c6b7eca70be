"""The platform's Grafana dashboard, generated from the Plan: engines, GPUs, nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.observability.panels import Panel, Row, placed
from components.observability.queries import EngineFamily, families
from planner import naming
from planner.plan import Plan
from planner.router import ACTIVATOR_HELD, ROUTER_ALIVE
from planner.scaling import ACTIVATOR_PEAK

UID = "inference-platform"
LARGEST_CONFIG_MAP_BYTES = 1_048_576


@dataclass(frozen=True, kw_only=True, slots=True)
class DashboardArgs:
    """What is shown."""

    plan: Plan
    after: tuple[pulumi.Resource, ...] = ()


def dashboard(plan: Plan) -> dict[str, Any]:
    """The dashboard in Grafana's JSON model; a pure function of the plan."""
    engines = (_engine(family) for family in families(plan.models))
    rows = [_overview(plan), *engines, *_scaling(plan), _gpu(plan), _nodes(plan)]
    return {
        "uid": UID,
        "title": "Inference platform",
        "tags": [naming.PROJECT],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_model_variable(plan)]},
        "panels": list(placed(rows)),
    }


def rendered(plan: Plan) -> str:
    """The dashboard as the text that Grafana's sidecar reads.

    Raises:
        pulumi.RunError: it does not fit into a ConfigMap.
    """
    text = json.dumps(dashboard(plan), indent=1, sort_keys=True)
    if len(text.encode()) > LARGEST_CONFIG_MAP_BYTES:
        raise pulumi.RunError(
            f"the dashboard of {len(plan.models)} models is larger than a ConfigMap may be (1 MiB)\n"
            "  split the models over two stacks"
        )
    return text


def _model_variable(plan: Plan) -> dict[str, Any]:
    names = [model.name for model in plan.models]
    return {
        "name": "model",
        "label": "Model",
        "type": "custom",
        "query": ",".join(names),
        "options": [],
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _overview(plan: Plan) -> Row:
    serving = f'namespace="{naming.SERVING_NAMESPACE}"'
    pods = f'kube_pod_status_phase{{{serving},phase=~"Running|Pending|Failed"}}'
    gpus = 'resource="nvidia_com_gpu"'
    return Row(
        title=f"{plan.stack}: serving",
        panels=(
            Panel(title="Pods by phase", queries=((f"sum by (phase) ({pods})", "{{phase}}"),), unit="short"),
            Panel(
                title="Restarts in the last day",
                queries=((f"increase(kube_pod_container_status_restarts_total{{{serving}}}[1d]) > 0", "{{pod}}"),),
                unit="short",
            ),
            Panel(
                title="GPUs: there and asked for",
                queries=(
                    (f"sum(kube_node_status_allocatable{{{gpus}}})", "allocatable"),
                    (f"sum(kube_pod_container_resource_requests{{{gpus},{serving}}})", "requested by serving pods"),
                ),
                unit="short",
            ),
        ),
    )


def _scaling(plan: Plan) -> Iterator[Row]:
    """Replicas that KEDA's HPAs want, and what waits for one; none where nothing scales and no router is."""
    serving = f'namespace="{naming.SERVING_NAMESPACE}"'
    panels: list[Panel] = []
    if any(model.scaling.owner == "keda" for model in plan.models):
        hpa = f'{{{serving},horizontalpodautoscaler=~"keda-hpa-$model"}}'
        wanted, most = (
            f"max by (horizontalpodautoscaler) (kube_horizontalpodautoscaler_{what}{hpa})"
            for what in ("status_desired_replicas", "spec_max_replicas")
        )
        panels.append(
            Panel(
                title="Replicas wanted, and the most",
                queries=((wanted, "{{horizontalpodautoscaler}}"), (most, "{{horizontalpodautoscaler}} most")),
                unit="short",
                description="A model without replicas has no wish: KEDA wakes it itself",
            )
        )
    routers = [model.router for model in plan.models if model.router is not None]
    if routers:
        pods = "|".join(f"{router.name}-.*" for router in routers)
        panels.append(
            Panel(
                title="Replicas that the routers know",
                queries=((f'max by (pod) ({ROUTER_ALIVE}{{{serving},pod=~"{pods}"}})', "{{pod}}"),),
                unit="short",
            )
        )
    if any(router.activator for router in routers):
        asked, held = (
            f'sum by (model) ({name}{{{serving},model=~"$model"}})' for name in (ACTIVATOR_PEAK, ACTIVATOR_HELD)
        )
        panels.append(
            Panel(
                title="Requests at once, and held without a replica",
                queries=((asked, "{{model}} most in a minute"), (held, "{{model}} held")),
                unit="short",
            )
        )
    if panels:
        yield Row(title="Scaling and routers", panels=tuple(panels))


def _engine(family: EngineFamily) -> Row:
    metrics, legend = family.metrics, family.legend
    panels = [
        Panel(
            title="Requests running and waiting",
            queries=(
                (family.total(metrics.running), f"{legend} running"),
                (family.total(metrics.waiting), f"{legend} waiting"),
            ),
            unit="short",
        ),
        Panel(
            title="KV cache in use, fullest replica",
            queries=((family.highest(metrics.kv_usage), legend),),
            unit="percentunit",
            maximum=1,
        ),
        _latency(family, "Time to first token", metrics.ttft_histogram),
        _latency(
            family, "Time per output token", metrics.tpot_histogram, "Of a request: its decode time by its tokens"
        ),
        _latency(
            family,
            "Time between tokens",
            metrics.itl_histogram,
            "From one piece of a stream to the next: a stall hides in a request's mean, and is seen here",
        ),
        _latency(family, "Request from end to end", metrics.e2e_histogram, "Grows with the length of answers too"),
        Panel(
            title="Tokens",
            queries=(
                (family.rate(metrics.prompt_tokens), f"{legend} prompt"),
                (family.rate(metrics.generation_tokens), f"{legend} generated"),
            ),
            unit="short",
            description="Each second, over all replicas",
        ),
        Panel(
            title="Failed requests",
            queries=((family.share(metrics.errors, metrics.requests), legend),),
            unit="percentunit",
        ),
    ]
    transfer = metrics.kv_transfer_histogram
    if family.hands_over and transfer is not None:
        panels.append(_latency(family, "KV cache from prefill to decode", transfer))
    if metrics.rejections is not None:
        panels.append(
            Panel(
                title="Requests turned away",
                queries=((family.rate(metrics.rejections), legend),),
                unit="short",
                description="Answered 503 by a replica whose queue is full, each second; a router asks another one",
            )
        )
    if metrics.queue_histogram is not None:
        panels.append(
            Panel(
                title="Time in queue",
                queries=((family.quantile(metrics.queue_histogram, 0.95), f"{legend} P95"),),
                unit="s",
            )
        )
    if metrics.prefix_hits is not None and metrics.prefix_queries is not None:
        panels.append(
            Panel(
                title="Prefix cache hits",
                queries=((family.share(metrics.prefix_hits, metrics.prefix_queries), legend),),
                unit="percentunit",
                maximum=1,
            )
        )
    if family.has_tiers:
        panels.append(
            Panel(
                title="Prompt tokens from RAM or the store",
                queries=((family.share(metrics.tier_hits, metrics.tier_queries), legend),),
                unit="percentunit",
                maximum=1,
                description="Of those that were looked for behind the GPUs' own cache",
            )
        )
    if metrics.preemptions is not None:
        panels.append(
            Panel(
                title="Preemptions",
                queries=((family.rate(metrics.preemptions), legend),),
                unit="short",
                description="Sequences pushed out of a full KV cache, each second",
            )
        )
    return Row(title=family.title, panels=tuple(panels))


def _latency(family: EngineFamily, title: str, histogram: str, description: str = "") -> Panel:
    """Median and 99th percentile of a histogram, in its own unit."""
    return Panel(
        title=title,
        queries=tuple((family.quantile(histogram, q), f"{family.legend} P{q * 100:.0f}") for q in (0.5, 0.99)),
        unit="ms" if histogram.endswith("_ms") else "s",
        description=description,
    )


def _gpu(plan: Plan) -> Row:
    by = "{{Hostname}} GPU {{gpu}}"

    def gauge(title: str, expression: str, unit: str, maximum: float | None = None, description: str = "") -> Panel:
        return Panel(title=title, queries=((expression, by),), unit=unit, maximum=maximum, description=description)

    memory = "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"
    panels = [
        gauge("GPU memory in use", memory, "percentunit", 1, "Engines reserve their share at start and keep it"),
        gauge("GPU busy", "DCGM_FI_DEV_GPU_UTIL", "percent", 100, "A kernel ran; says nothing about how well"),
        gauge("Tensor cores active", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "percentunit", 1),
        gauge("Memory interface active", "DCGM_FI_PROF_DRAM_ACTIVE", "percentunit", 1, "High while decoding"),
        gauge("Power", "DCGM_FI_DEV_POWER_USAGE", "watt"),
        gauge("Temperature", "DCGM_FI_DEV_GPU_TEMP", "celsius"),
        gauge("Last XID error", "DCGM_FI_DEV_XID_ERRORS > 0", "short"),
        Panel(
            title="Remapped memory rows",
            queries=(
                ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS > 0", f"{by} remapped"),
                ("DCGM_FI_DEV_ROW_REMAP_FAILURE > 0", f"{by} remapping failed"),
            ),
            unit="short",
            description="For uncorrectable errors; a GPU whose remapping failed must be replaced",
        ),
    ]
    if any(pool.hardware.nvlink for pool in plan.pools):
        panels.append(
            Panel(
                title="NVLink",
                queries=(
                    ("sum by (Hostname) (DCGM_FI_PROF_NVLINK_TX_BYTES)", "{{Hostname}} sent"),
                    ("sum by (Hostname) (DCGM_FI_PROF_NVLINK_RX_BYTES)", "{{Hostname}} received"),
                ),
                unit="Bps",
            )
        )
    return Row(title="GPUs", panels=tuple(panels))


def _nodes(plan: Plan) -> Row:
    network = 'node_network_{}_bytes_total{{device!~"lo|veth.*|eni.*"}}'
    panels = [
        Panel(
            title="Nodes by rung",
            queries=(
                ("count by (label_inference_platform_rung) (kube_node_labels)", "{{label_inference_platform_rung}}"),
            ),
            unit="short",
        ),
        Panel(
            title="CPU busy",
            queries=(
                ('1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))', "{{instance}}"),
            ),
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            title="Memory in use",
            queries=(("1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes", "{{instance}}"),),
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            title="Network without EFA",
            queries=tuple(
                (f"sum by (instance) (rate({network.format(way)}[$__rate_interval]))", f"{{{{instance}}}} {word}")
                for way, word in (("receive", "received"), ("transmit", "sent"))
            ),
            unit="Bps",
            description="Requests, image pulls, S3 and Lustre over TCP; EFA traffic passes the kernel by",
        ),
    ]
    if any(pool.hardware.efa_devices for pool in plan.pools):
        efa = 'resource="vpc_amazonaws_com_efa"'
        panels.append(
            Panel(
                title="EFA devices: there and asked for",
                queries=(
                    (f"sum(kube_node_status_allocatable{{{efa}}})", "allocatable"),
                    (f"sum(kube_pod_container_resource_requests{{{efa}}})", "requested"),
                ),
                unit="short",
            )
        )
    if plan.cache.claim_name is not None:
        claim = f'namespace="{naming.SERVING_NAMESPACE}",persistentvolumeclaim=~"{plan.cache.claim_name}.*"'
        used, capacity = (f"max(kubelet_volume_stats_{what}_bytes{{{claim}}})" for what in ("used", "capacity"))
        panels.append(
            Panel(
                title="Model cache in use",
                queries=((f"{used} / {capacity}", plan.cache.claim_name),),
                unit="percentunit",
                maximum=1,
            )
        )
    return Row(title="Nodes and cache", panels=tuple(panels))


class Dashboard(pulumi.ComponentResource):
    """The dashboard as a ConfigMap, which Grafana's sidecar finds by its label."""

    def __init__(self, name: str, args: DashboardArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Dashboard", name, None, opts)
        kubernetes.core.v1.ConfigMap(
            f"{name}-json",
            metadata=kubernetes.meta.v1.ObjectMetaArgs(
                name="inference-platform-dashboard",
                namespace=naming.MONITORING_NAMESPACE,
                labels={"grafana_dashboard": "1", naming.PART_OF_LABEL: naming.PROJECT},
            ),
            data={"inference-platform.json": rendered(args.plan)},
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.register_outputs({})
