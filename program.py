"""The table of contents: what `__main__.py` and the tests call. Declares the Plan, decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components import platform
from components.karpenter import KarpenterNodes
from components.model_cache import FileSystem
from components.platform import PlatformAws
from components.serving import declare as serving
from components.serving.model_server import WeightsBucket
from infra import aws as aws_layer
from infra.aws import AwsOutputs, EksOutputs
from infra.karpenter import KarpenterOutputs
from infra.secret_values import GivenSecrets
from planner.instructions import instructions
from planner.plan import Plan


def build(plan: Plan) -> Mapping[str, Any]:
    """Declare a whole platform; returns the stack's outputs."""
    cloud = aws_layer.declare(plan)
    secrets = GivenSecrets(cloud.aws)
    base = platform.declare(
        plan, provider=cloud.kubernetes, after=cloud.ready, secrets=secrets, aws=_platform_aws(cloud)
    )
    models = serving.declare(
        serving.ServingArgs(
            plan=plan,
            platform={**base.charts, **base.namespaces, **base.priority_classes, **base.image_pulls},
            node_groups={**cloud.node_groups, **base.node_pools},
            file_system=_file_system(cloud),
            bucket=_bucket(cloud),
            secrets=secrets,
            prometheus_labels={},
        ),
        pulumi.ResourceOptions(providers=[cloud.kubernetes, cloud.aws] if cloud.aws else [cloud.kubernetes]),
    )
    return {
        **instructions(plan),
        "endpoints": models.urls,
        "weights_bucket": cloud.weights.bucket_name if cloud.weights else None,
    }


def _platform_aws(cloud: AwsOutputs) -> PlatformAws | None:
    if cloud.aws is None or cloud.eks is None:
        return None
    return PlatformAws(
        provider=cloud.aws,
        account=cloud.eks.account,
        cluster_arn=cloud.eks.arn,
        vpc_id=cloud.eks.vpc_id,
        volume_key_arn=cloud.eks.key_arn,
        karpenter=_karpenter_nodes(cloud.karpenter, cloud.eks),
    )


def _karpenter_nodes(karpenter: KarpenterOutputs | None, eks: EksOutputs) -> KarpenterNodes | None:
    if karpenter is None:
        return None
    return KarpenterNodes(
        endpoint=eks.endpoint,
        queue_name=karpenter.queue_name,
        instance_profile=karpenter.instance_profile,
        subnet_ids=karpenter.subnet_ids,
        security_group_ids=karpenter.security_group_ids,
        volume_key_arn=eks.key_arn,
        ready=karpenter.ready,
    )


def _file_system(cloud: AwsOutputs) -> FileSystem | None:
    if cloud.lustre is None:
        return None
    lustre = cloud.lustre
    return FileSystem(id=lustre.file_system_id, dns_name=lustre.dns_name, mount_name=lustre.mount_name)


def _bucket(cloud: AwsOutputs) -> WeightsBucket | None:
    if cloud.weights is None or cloud.eks is None:
        return None
    return WeightsBucket(
        name=cloud.weights.bucket_name,
        arn=cloud.weights.bucket_arn,
        key_arn=cloud.weights.key_arn,
        region=cloud.eks.account.region,
        cluster_name=cloud.eks.name,
        cluster_arn=cloud.eks.arn,
    )
