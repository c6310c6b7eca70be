"""The cluster: its version, who may administer it, its add-ons and its system nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.load import Catalog
from catalog.types import Addon, KubernetesVersion
from planner.addresses import SYSTEM_NODE_PODS
from planner.naming import GPU_TAINT, PROJECT
from planner.plan import AddonPlan, EksPlan, ExistingClusterPlan, ModelPlan, SystemGroupPlan
from planner.problems import Findings
from planner.tags import own_tags
from settings.errors import did_you_mean
from settings.network import CreateNetwork
from settings.root import Settings
from settings.target import EksTarget, PrivateEndpoint, PublicAndPrivateEndpoint

_SYSTEM_AMI = "AL2023_x86_64_STANDARD"
_ALWAYS = (
    "vpc-cni",
    "eks-pod-identity-agent",
    "kube-proxy",
    "coredns",
    "aws-ebs-csi-driver",
    "eks-node-monitoring-agent",
    "metrics-server",
)
# AWS managed policies by the part of the ARN after `policy/`. Source: EKS user guide, add-on IAM.
_POLICIES = {
    "vpc-cni": ("AmazonEKS_CNI_Policy",),
    "aws-ebs-csi-driver": ("service-role/AmazonEBSCSIDriverPolicy",),
}

# What kubelet and the DaemonSets of add-ons keep of a system node. Source: EKS AL2023 kubelet reservations, and the
# requests of CNI, kube-proxy, CSI drivers and agents.
_USABLE_CPU_SHARE, _DAEMONS_CPU = 0.94, 0.5
_USABLE_MEMORY_SHARE, _DAEMONS_GIB = 0.9, 1.0
# KubeRay's autoscaler runs beside the head: components/serving/custom_resources.py.
_RAY_AUTOSCALER_CPU, _RAY_AUTOSCALER_GIB = 0.5, 1.0


def kubernetes_version(settings: Settings, catalog: Catalog, findings: Findings) -> KubernetesVersion:
    """The catalog's entry of the target's version; the default (and a problem) for one that is not supported."""
    known = catalog.versions.kubernetes
    version = settings.target.kubernetes_version
    if version not in known:
        findings.problem(
            ("target", "kubernetes_version"),
            f"Kubernetes {version} is not supported",
            did_you_mean(version, known) or "supported: " + ", ".join(known),
        )
        return known[catalog.versions.default_kubernetes]
    return known[version]


def plan_target(
    settings: Settings,
    stack: str,
    version: KubernetesVersion,
    catalog: Catalog,
    *,
    zones: tuple[str, ...],
    uses_fsx: bool,
    findings: Findings,
) -> EksPlan | ExistingClusterPlan:
    """The cluster of a stack."""
    target = settings.target
    if not isinstance(target, EksTarget):
        return ExistingClusterPlan(
            kubeconfig=target.kubeconfig,
            context=target.context,
            kubernetes_version=version.name,
            gpu_driver=target.gpu_driver,
        )
    endpoint = target.endpoint
    names = [*_ALWAYS, *(["aws-fsx-csi-driver"] if uses_fsx else [])]
    return EksPlan(
        cluster_name=f"{PROJECT}-{stack}"[:100],
        account_id=target.account_id,
        kubernetes_version=version.name,
        admins=tuple(target.admins),
        public_cidrs=tuple(endpoint.admin_cidrs) if isinstance(endpoint, PublicAndPrivateEndpoint) else (),
        private_cidrs=_private_cidrs(settings, target, findings),
        service_cidr=target.service_cidr,
        log_retention_days=target.log_retention_days,
        addons=tuple(_addon(catalog.versions.addons[name], version.name, own_tags(settings, stack)) for name in names),
        system=_system(target, zones, version, catalog, findings),
    )


def _private_cidrs(settings: Settings, target: EksTarget, findings: Findings) -> tuple[str, ...]:
    """Who reaches the private endpoint besides the nodes: EKS's security group admits its own members only."""
    network = settings.network
    connected = network.connection.cidrs if isinstance(network, CreateNetwork) and network.connection else []
    named = target.endpoint.admin_cidrs if isinstance(target.endpoint, PrivateEndpoint) else []
    if isinstance(target.endpoint, PrivateEndpoint) and not connected and not named:
        findings.remark(
            "target.endpoint",
            "nobody but the cluster's nodes reaches the API server: name your runner's range in `admin_cidrs`",
        )
    return tuple(dict.fromkeys((*connected, *named)))


def _addon(addon: Addon, version: str, tags: Mapping[str, str]) -> AddonPlan:
    return AddonPlan(
        name=addon.name,
        version=addon.version_for(version),
        minimum_version=addon.minimum_version,
        phase=addon.phase,
        namespace=addon.namespace,
        configuration=_configuration(addon.name, tags),
        service_account=addon.service_account,
        policy_arn_names=_POLICIES.get(addon.name, ()),
    )


def _configuration(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    if name == "vpc-cni":
        # Prefixes: p5 has two interfaces on card 0, which would end at 100 pods and burn an address each.
        return {
            "enableNetworkPolicy": "true",
            "env": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"},
        }
    if name == "aws-ebs-csi-driver":
        # The driver makes volumes in nobody's name: untagged, no cost report and no search for leftovers finds them.
        # Not the user's tags, which may hold the commas that separate tags on the driver's command line.
        return {"controller": {"extraVolumeTags": dict(tags)}}
    if name == "eks-node-monitoring-agent":
        # Without it the agent's DCGM server is not scheduled on tainted GPU nodes, and node repair sees no GPU fault.
        return {"dcgmAgent": {"tolerations": [{"key": GPU_TAINT, "operator": "Exists", "effect": "NoSchedule"}]}}
    if name == "coredns":
        return {"replicaCount": 2}
    return {}


def check_heads(target: EksPlan | ExistingClusterPlan, models: tuple[ModelPlan, ...], findings: Findings) -> None:
    """Refuses Ray services whose heads find no room on the system nodes: their workers would never start."""
    heads = [model.ray for model in models if model.ray is not None]
    if not heads or not isinstance(target, EksPlan):
        return
    system = target.system
    cpu = system.vcpus * _USABLE_CPU_SHARE - _DAEMONS_CPU
    memory = system.memory_gib * _USABLE_MEMORY_SHARE - _DAEMONS_GIB
    per_node = min(
        int(cpu / (max(head.head_cpu for head in heads) + _RAY_AUTOSCALER_CPU)),
        int(memory / (max(head.head_memory_gib for head in heads) + _RAY_AUTOSCALER_GIB)),
    )
    room = max(0, per_node) * system.max_nodes
    if len(heads) > room:
        findings.problem(
            ("target", "system_nodes"),
            f"{len(heads)} Ray head(s) run there, and {system.max_nodes} x {system.instance_type} have room for {room}",
            "use a larger type" if per_node < 1 else "raise max, or use a larger type",
        )


def _system(
    target: EksTarget, zones: tuple[str, ...], version: KubernetesVersion, catalog: Catalog, findings: Findings
) -> SystemGroupPlan:
    wanted = target.system_nodes
    path = ("target", "system_nodes", "instance_type")
    cpu_types = [name for name, entry in catalog.instances.items() if not entry.gpus]
    instance = catalog.instances.get(wanted.instance_type)
    if instance is None or instance.gpus:
        reason = "is a GPU type" if instance else "is not in the catalog"
        findings.problem(path, f"`{wanted.instance_type}` {reason}", did_you_mean(wanted.instance_type, cpu_types))
        instance = catalog.instances[cpu_types[0]]
    ami = catalog.versions.amis[_SYSTEM_AMI]
    return SystemGroupPlan(
        zones=zones[: wanted.min],
        instance_type=instance.name,
        min_nodes=wanted.min,
        max_nodes=wanted.max,
        vcpus=instance.vcpus,
        memory_gib=instance.memory_gib,
        max_pods=SYSTEM_NODE_PODS,
        ami_type=ami.ami_type,
        release_version=ami.releases[version.name],
    )
