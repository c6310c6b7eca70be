"""Plans made by hand: what the planner would decide, with every AWS feature that the layer declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from catalog import Catalog, load
from planner.efa import efa_interfaces
from planner.plan import (
    AddonPlan,
    CachePlan,
    CostPlan,
    CreatedNetworkPlan,
    EksPlan,
    ExistingClusterPlan,
    ExistingNetworkPlan,
    ExistingSubnetPlan,
    FsxPlan,
    Hardware,
    Plan,
    PoolPlan,
    RungPlan,
    SystemGroupPlan,
    Taint,
    ZonePlan,
)
from planner.pools import GPU_REPAIRS

ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
ADMINS = ("arn:aws:iam::111122223333:role/platform", "arn:aws:iam::111122223333:role/ci/deploy")
TAGS = {"project": "inference-platform", "environment": "prod", "team": "serving"}


@cache
def catalog() -> Catalog:
    """The catalog, read once."""
    return load()


def addons() -> tuple[AddonPlan, ...]:
    """In an order that is not the one they can be made in."""

    def addon(name: str, phase: str, **fields: Any) -> AddonPlan:
        known: dict[str, Any] = {
            "version": "v1.2.3-eksbuild.1",
            "minimum_version": None,
            "namespace": "kube-system",
            "configuration": {},
        }
        return AddonPlan(name=name, phase=phase, **(known | fields))  # type: ignore[arg-type]

    return (
        addon(
            "vpc-cni",
            "before_nodes",
            service_account="aws-node",
            policy_arn_names=("AmazonEKS_CNI_Policy",),
            configuration={"enableNetworkPolicy": "true"},
        ),
        addon("eks-pod-identity-agent", "before_nodes"),
        addon("kube-proxy", "before_nodes"),
        addon("coredns", "after_nodes"),
        addon(
            "aws-ebs-csi-driver",
            "after_nodes",
            service_account="ebs-csi-controller-sa",
            policy_arn_names=("service-role/AmazonEBSCSIDriverPolicy",),
        ),
        addon("aws-fsx-csi-driver", "after_nodes", service_account="fsx-csi-controller-sa"),
        addon("eks-node-monitoring-agent", "after_nodes", version=None),
    )


def rung(pool: str, kind: str, *, low: int = 0, high: int = 2, efa: bool = False, **fields: Any) -> RungPlan:
    """A rung of `pool`."""
    name = f"{pool}-{kind}".replace("_", "-")
    known: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "min_nodes": low,
        "max_nodes": high,
        "desired_nodes": low,
        "priority": 100,
        "reservation": "cr-0123456789abcdef0" if kind.startswith("capacity") else None,
        "placement_group": efa and not kind.startswith("capacity"),
        "labels": {"inference-platform/pool": pool, "inference-platform/rung": name},
        "usd_per_node_hour": 1.0,
        "price_note": "made up",
        "boot_seconds": 300,
    }
    return RungPlan(**(known | fields))


def pool(
    name: str, instance_type: str, *, kinds: Sequence[str] = ("on_demand",), efa: bool, zone: str = ZONES[0]
) -> PoolPlan:
    """A pool of an instance type of the catalog."""
    instance = catalog().instances[instance_type]
    gpu = catalog().gpus[instance.gpu]
    return PoolPlan(
        name=name,
        zone=zone,
        hardware=Hardware(
            instance_type=instance_type,
            vcpus=instance.vcpus,
            memory_gib=instance.memory_gib,
            gpu=gpu.name,
            gpus=instance.gpus,
            fp8_hardware=gpu.fp8_hardware,
            nvlink=instance.nvlink,
            efa_devices=instance.efa_interfaces if efa else 0,
            gdr=instance.gdr,
            network_gbps=100.0,
            card0_gbps=instance.card0_gbps,
            nvme_gb=instance.nvme_gb_total,
            max_pods=instance.max_pods,
            hugepages_mib=10256 if efa else 0,
        ),
        network_interfaces=efa_interfaces(instance) if efa else (),
        rungs=tuple(rung(name, kind, efa=efa) for kind in kinds),
        node_selector={"inference-platform/pool": name},
        taints=(Taint(key="nvidia.com/gpu", value="true", effect="NoSchedule"),),
        ami_type="AL2023_x86_64_NVIDIA",
        release_version="1.35.7-20260903",
        root_volume_gib=100,
        repairs=GPU_REPAIRS,
    )


def created_network(*, internet: bool = True, per_zone: bool = False, connected: bool = False) -> CreatedNetworkPlan:
    """A /16 over three zones."""
    return CreatedNetworkPlan(
        cidr="10.20.0.0/16",
        zones=tuple(
            ZonePlan(
                zone=zone,
                private_cidr=f"10.20.{32 * index}.0/19",
                public_cidr=f"10.20.{224 + index}.0/28" if internet else None,
                nat_gateway=internet and (per_zone or index == 0),
                control_plane=zone != ZONES[2],
            )
            for index, zone in enumerate(ZONES)
        ),
        interface_endpoints=() if internet else ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts"),
        transit_gateway="tgw-0123456789abcdef0" if connected else None,
        connection_cidrs=("10.8.0.0/16", "192.168.0.0/24") if connected else (),
        flow_log_retention_days=14,
    )


def existing_network() -> ExistingNetworkPlan:
    """Subnets of somebody else's VPC."""
    return ExistingNetworkPlan(
        vpc_id="vpc-0abc",
        subnets=tuple(ExistingSubnetPlan(subnet_id=f"subnet-0{zone[-1]}", zone=zone) for zone in ZONES),
    )


def eks(**fields: Any) -> EksPlan:
    """A cluster with a public endpoint for one office."""
    known: dict[str, Any] = {
        "cluster_name": "inference-platform-prod",
        "kubernetes_version": "1.35",
        "admins": ADMINS,
        "public_cidrs": ("203.0.113.0/24",),
        "log_retention_days": 30,
        "addons": addons(),
        "system": SystemGroupPlan(
            zones=("us-east-1a", "us-east-1b"),
            instance_type="m7i.xlarge",
            min_nodes=2,
            max_nodes=4,
            vcpus=4,
            memory_gib=16,
            max_pods=58,
            ami_type="AL2023_x86_64_STANDARD",
            release_version="1.35.7-20260903",
        ),
    }
    return EksPlan(**(known | fields))


def existing_cluster() -> ExistingClusterPlan:
    """A cluster that a kubeconfig points at."""
    return ExistingClusterPlan(
        kubeconfig="~/.kube/config", context="lab", kubernetes_version="1.35", gpu_driver="operator"
    )


def lustre_cache() -> CachePlan:
    """FSx for Lustre in front of a bucket."""
    return CachePlan(
        bucket=True,
        fsx=FsxPlan(
            zone=ZONES[0],
            storage_gib=9600,
            throughput_mbps_per_tib=1000,
            disk_mb_per_s=9375,
            network_mb_per_s=24375,
            file_system_type_version="2.15",
        ),
        volume_claim=None,
        claim_name="model-cache",
        mount_path="/cache",
        data_repository_path="/models",
    )


def plan(**fields: Any) -> Plan:
    """A whole plan; the parts that AWS does not see are empty."""
    nothing: Mapping[str, Any] = {
        "warmups": (),
        "models": (),
        "charts": {},
        "image_mirror": None,
        "observability": None,
        "hub_token": None,
        "findings": (),
    }
    known: dict[str, Any] = {
        "project": "inference-platform",
        "stack": "prod",
        "environment": "prod",
        "region": "us-east-1",
        "tags": TAGS,
        "target": eks(),
        "network": created_network(),
        "pools": (
            pool("h100", "p5.48xlarge", kinds=("capacity_block", "spot", "on_demand"), efa=True),
            pool("small", "g6e.xlarge", kinds=("spot",), efa=False, zone=ZONES[1]),
        ),
        "cache": lustre_cache(),
        "protect_data": True,
        "protect_cluster": True,
        "cost": CostPlan(
            lines=(),
            base_usd_per_hour=0,
            idle_usd_per_hour=0,
            peak_usd_per_hour=0,
            hours_per_month=730,
            budget_monthly_usd=None,
        ),
    }
    return Plan(**(dict(nothing) | known | fields))


def without_lustre(cache_plan: CachePlan) -> CachePlan:
    """The same cache with the bucket alone."""
    return replace(cache_plan, fsx=None, claim_name=None)
