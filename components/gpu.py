"""GPUs: the NVIDIA GPU operator with its device plugin, and DCGM for what GPUs do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pulumi
import yaml

from components._charts import release
from planner import naming
from planner.images import mirrored
from planner.plan import ChartPlan, SharingPlan

METRICS_CONFIG_MAP = "dcgm-exporter-metrics"
PLUGIN_CONFIG_MAP = "device-plugin-config"
WHOLE_GPUS = "whole"
"""Entry of the device plugin's ConfigMap for nodes that name none."""

METRICS: tuple[tuple[str, Literal["gauge", "counter", "label"], str], ...] = (
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU busy (in %)"),
    ("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB)"),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB)"),
    ("DCGM_FI_DEV_FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB)"),
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz)"),
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C)"),
    ("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C)"),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W)"),
    ("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered"),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Double-bit volatile ECC errors"),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for uncorrectable errors"),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for correctable errors"),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed"),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe retries"),
    ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "counter", "NVLink bandwidth counters of all lanes"),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time that the graphics engine is active"),
    ("DCGM_FI_PROF_SM_ACTIVE", "gauge", "Ratio of cycles in which an SM has a warp assigned"),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Ratio of cycles in which the tensor pipe is active"),
    ("DCGM_FI_PROF_DRAM_ACTIVE", "gauge", "Ratio of cycles in which the memory interface is active"),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", "gauge", "Bytes sent over PCIe each second"),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", "gauge", "Bytes received over PCIe each second"),
    ("DCGM_FI_PROF_NVLINK_TX_BYTES", "gauge", "Bytes sent over NVLink each second"),
    ("DCGM_FI_PROF_NVLINK_RX_BYTES", "gauge", "Bytes received over NVLink each second"),
    ("DCGM_FI_DRIVER_VERSION", "label", "Driver version"),
)
"""The exporter's own list (dcgm-exporter 4.8.2, default-counters.csv) lacks SM activity and NVLink directions, and has
encoders and licences that no engine uses."""

OPERANDS = {
    "validator": "nvcr.io/nvidia",
    "operator": "nvcr.io/nvidia",
    "driver": "nvcr.io/nvidia",
    "toolkit": "nvcr.io/nvidia/k8s",
    "devicePlugin": "nvcr.io/nvidia",
    "dcgmExporter": "nvcr.io/nvidia/k8s",
    "gfd": "nvcr.io/nvidia",
    "migManager": "nvcr.io/nvidia/cloud-native",
}
"""Upstream repository of each part that runs here (values.yaml of the chart at v26.7.0)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuArgs:
    """What the operator manages and who scrapes it."""

    chart: ChartPlan
    image_mirror: str | None
    host_software: Literal["preinstalled", "operator"]
    """Who brings driver and container toolkit: the nodes' image (EKS's AL2023 NVIDIA image does) or the operator."""
    scrape_interval_seconds: int
    sharing: tuple[SharingPlan, ...] = ()
    """How pools cut their GPUs."""
    after: tuple[pulumi.Resource, ...] = ()


def metrics_csv() -> str:
    """What DCGM exports, in the exporter's format: field, Prometheus type, help."""
    return "\n".join(", ".join(line) for line in METRICS)


def values(args: GpuArgs) -> dict[str, Any]:
    """Chart values."""
    managed = args.host_software == "operator"
    chart: dict[str, Any] = {
        "driver": {"enabled": managed},
        "toolkit": {"enabled": managed},
        # The NRI plugin without the operator's toolkit is refused by the operator's own validation.
        "cdi": {"enabled": True, "nriPluginEnabled": False},
        "mig": {"strategy": "single"},
        "daemonsets": {"tolerations": [gpu_toleration()]},
        "operator": {"upgradeCRD": True},
        "dcgmExporter": {
            "enabled": True,
            "config": {"name": METRICS_CONFIG_MAP, "create": True, "data": metrics_csv()},
            "serviceMonitor": {
                "enabled": True,
                "interval": f"{args.scrape_interval_seconds}s",
                # A longer timeout than interval is refused by Prometheus.
                "scrapeTimeout": f"{min(10, args.scrape_interval_seconds)}s",
                # `pod` and `namespace` then name who uses the GPU, not the exporter.
                "honorLabels": True,
            },
        },
        "node-feature-discovery": {"worker": {"tolerations": [{"operator": "Exists"}]}},
        **_shared(args.sharing),
    }
    if args.image_mirror is None:
        return chart
    for operand, repository in OPERANDS.items():
        chart.setdefault(operand, {})["repository"] = mirrored(repository, args.image_mirror)
    chart["driver"]["manager"] = {"repository": mirrored("nvcr.io/nvidia/cloud-native", args.image_mirror)}
    nfd = mirrored("registry.k8s.io/nfd/node-feature-discovery", args.image_mirror)
    chart["node-feature-discovery"]["image"] = {"repository": nfd}
    return chart


def _shared(pools: tuple[SharingPlan, ...]) -> dict[str, Any]:
    """What cuts GPUs: entries of the device plugin that nodes name by label, and MIG manager's leave to reboot.

    MIG manager makes its own `all-<profile>` entries from the hardware that it finds.
    """
    chart: dict[str, Any] = {}
    slices = {pool.config: pool.slices_per_gpu for pool in pools if pool.config is not None}
    if slices:
        chart["devicePlugin"] = {
            "config": {
                "name": PLUGIN_CONFIG_MAP,
                "create": True,
                # Of nodes that name none: whole GPUs.
                "default": WHOLE_GPUS,
                "data": {WHOLE_GPUS: _plugin_config(None)}
                | {name: _plugin_config(replicas) for name, replicas in sorted(slices.items())},
            }
        }
    if any(pool.reboots for pool in pools):
        # Where a reset does not do (Ampere in a virtual machine), MIG mode changes at a reboot; none serves by then.
        chart["migManager"] = {"env": [{"name": "WITH_REBOOT", "value": "true"}]}
    return chart


def _plugin_config(replicas: int | None) -> str:
    """One entry of the device plugin's ConfigMap, as it reads it (api/config/v1 of NVIDIA/k8s-device-plugin)."""
    config: dict[str, Any] = {"version": "v1", "flags": {"migStrategy": "single"}}
    if replicas is not None:
        config["sharing"] = {
            "timeSlicing": {
                "renameByDefault": False,
                # Two slices give a pod no more than one: it may get both of one card.
                "failRequestsGreaterThanOne": True,
                "resources": [{"name": "nvidia.com/gpu", "replicas": replicas}],
            }
        }
    return yaml.safe_dump(config, sort_keys=False)


def gpu_toleration() -> dict[str, str]:
    """What DaemonSets need to run on GPU nodes."""
    return {"key": naming.GPU_TAINT, "operator": "Exists", "effect": "NoSchedule"}


class Gpu(pulumi.ComponentResource):
    """The GPU operator. Produces `release`; GPUs appear on a node once its DaemonSets run there."""

    release: pulumi.Resource

    def __init__(self, name: str, args: GpuArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Gpu", name, None, opts)
        # Its `crds/` folder installs the definitions; later versions come by the chart's own upgrade hook (upgradeCRD).
        self.release = release(f"{name}-operator", args.chart, values(args), parent=self, after=args.after)
        self.register_outputs({})
