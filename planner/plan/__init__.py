"""The Plan: everything that is decided, as plain data.

Builders declare it, reports print it, the rehearsal simulates it. Nothing here knows Pulumi, Kubernetes or boto3.
Memory is in GiB (2^30), weights and disks in GB (10^9) as vendors state them, time in seconds, money in US dollars.
"""

from __future__ import annotations

from planner.plan.cache import CachePlan, FsxPlan, LoadPlan, VolumeClaimPlan, WeightsPlan
from planner.plan.cost import (
    AvailabilityPlan,
    CostLine,
    CostPlan,
    RungCostPlan,
    RungTokenCost,
    SpendGuardPlan,
    TokenCostPlan,
)
from planner.plan.explain import Explained, Input
from planner.plan.images import ImageCachePlan, ImagePullPlan, PullThroughRulePlan
from planner.plan.karpenter import CapacityType, KarpenterPlan, KarpenterPoolPlan, NodeClassPlan, NodePoolPlan
from planner.plan.ladder import (
    AutoscalerTimesPlan,
    KeeperModelPlan,
    KeeperPlan,
    KeeperPoolPlan,
    KeeperRungPlan,
    LadderPlan,
)
from planner.plan.models import (
    ArgumentPlan,
    ContainerPlan,
    CronFloor,
    DrainPlan,
    EfaGatePlan,
    EnvVar,
    LayoutPlan,
    MemoryBudget,
    MemoryPart,
    MetricTrigger,
    ModelPlan,
    ProbePlan,
    RayPlan,
    ScalingPlan,
    WarmPromptsPlan,
    WarmupPlan,
)
from planner.plan.performance import ErrorBand, GpuTime, Latency, Lengths, LoadPoint, PerformancePlan
from planner.plan.platform import AlertPlan, ChartPlan, Finding, ObservabilityPlan, Plan
from planner.plan.pools import (
    Hardware,
    MaintenanceWindowPlan,
    NetworkInterfacePlan,
    PoolPlan,
    RungPlan,
    ScheduledSizePlan,
    SharingPlan,
    Taint,
)
from planner.plan.router import ActivatorPlan, RouterPlan, StandbyPlan
from planner.plan.secrets import AnySecretSource, SecretPlan
from planner.plan.target import (
    AddonPlan,
    CreatedNetworkPlan,
    EksPlan,
    ExistingClusterPlan,
    ExistingNetworkPlan,
    ExistingSubnetPlan,
    SystemGroupPlan,
    ZonePlan,
)
from planner.plan.valkey import ValkeyPlan

__all__ = [
    "ActivatorPlan",
    "AddonPlan",
    "AlertPlan",
    "AnySecretSource",
    "ArgumentPlan",
    "AutoscalerTimesPlan",
    "AvailabilityPlan",
    "CachePlan",
    "CapacityType",
    "ChartPlan",
    "ContainerPlan",
    "CostLine",
    "CostPlan",
    "CreatedNetworkPlan",
    "CronFloor",
    "DrainPlan",
    "EfaGatePlan",
    "EksPlan",
    "EnvVar",
    "ErrorBand",
    "ExistingClusterPlan",
    "ExistingNetworkPlan",
    "ExistingSubnetPlan",
    "Explained",
    "Finding",
    "FsxPlan",
    "GpuTime",
    "Hardware",
    "ImageCachePlan",
    "ImagePullPlan",
    "Input",
    "KarpenterPlan",
    "KarpenterPoolPlan",
    "KeeperModelPlan",
    "KeeperPlan",
    "KeeperPoolPlan",
    "KeeperRungPlan",
    "LadderPlan",
    "Latency",
    "LayoutPlan",
    "Lengths",
    "LoadPlan",
    "LoadPoint",
    "MaintenanceWindowPlan",
    "MemoryBudget",
    "MemoryPart",
    "MetricTrigger",
    "ModelPlan",
    "NetworkInterfacePlan",
    "NodeClassPlan",
    "NodePoolPlan",
    "ObservabilityPlan",
    "PerformancePlan",
    "Plan",
    "PoolPlan",
    "ProbePlan",
    "PullThroughRulePlan",
    "RayPlan",
    "RouterPlan",
    "RungCostPlan",
    "RungPlan",
    "RungTokenCost",
    "ScalingPlan",
    "ScheduledSizePlan",
    "SecretPlan",
    "SharingPlan",
    "SpendGuardPlan",
    "StandbyPlan",
    "SystemGroupPlan",
    "Taint",
    "TokenCostPlan",
    "ValkeyPlan",
    "VolumeClaimPlan",
    "WarmPromptsPlan",
    "WarmupPlan",
    "WeightsPlan",
    "ZonePlan",
]
