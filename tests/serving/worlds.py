"""Deploys the serving layer of a plan on stand-ins of what it stands on."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from components.model_cache import FileSystem
from components.serving.declare import ServingArgs, declare
from components.serving.model_server import WeightsBucket
from planner.plan import ModelPlan, Plan
from settings.secrets import PulumiSecret, SecretsManagerSecret
from tests.factories import model_of, stack_plan, with_models
from tests.harness import ResourceRecord, World, deploy

PROVIDER = "cluster"


class GivenSecrets:
    """Secret values as a user would have set them."""

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        """A value that no test may find outside of a Secret."""
        key = source.name if isinstance(source, PulumiSecret) else source.arn
        return pulumi.Output.secret(f"given-value-of-{key}")


def of_stack(stack: str, name: str, **changes: Any) -> ModelPlan:
    """A model of a committed stack, with fields changed."""
    return model_of(stack_plan(stack), name, **changes)


def with_model(plan: Plan, name: str, **changes: Any) -> Plan:
    """The plan with fields of one model changed."""
    return with_models(plan, *(model_of(plan, m.name, **changes) if m.name == name else m for m in plan.models))


def serve(plan: Plan, *, preview: bool = False) -> World:
    """The world after `declare`; charts and node groups are ConfigMaps, which order things as well as any."""
    return deploy(lambda: _program(plan), preview=preview, stack=plan.stack)


def _program(plan: Plan) -> None:
    cloud = aws.Provider("aws", region="us-east-1")
    cluster = aws.eks.Cluster(
        "main",
        role_arn="arn:aws:iam::111122223333:role/eks",
        vpc_config=aws.eks.ClusterVpcConfigArgs(subnet_ids=["subnet-1"]),
        opts=pulumi.ResourceOptions(provider=cloud),
    )
    kubernetes = k8s.Provider(PROVIDER, cluster_identifier=cluster.endpoint)
    on_cluster = pulumi.ResourceOptions(provider=kubernetes)
    platform: dict[str, pulumi.Resource] = {
        name: k8s.core.v1.ConfigMap(f"platform-{name}", opts=on_cluster) for name in (*plan.charts, "namespaces")
    }
    groups = {pool.name: [k8s.core.v1.ConfigMap(f"pool-{pool.name}", opts=on_cluster)] for pool in plan.pools}
    file_system = bucket = None
    if plan.cache.fsx is not None:
        lustre = aws.fsx.LustreFileSystem("cache", subnet_ids="subnet-1", opts=pulumi.ResourceOptions(provider=cloud))
        file_system = FileSystem(id=lustre.id, dns_name=lustre.dns_name, mount_name=lustre.mount_name)
    if plan.cache.bucket:
        store = aws.s3.Bucket("weights", opts=pulumi.ResourceOptions(provider=cloud))
        bucket = WeightsBucket(
            name=store.bucket,
            arn=store.arn,
            key_arn="arn:aws:kms:us-east-1:111122223333:key/weights",
            region="us-east-1",
            cluster_name=cluster.name,
            cluster_arn=cluster.arn,
        )
    outputs = declare(
        ServingArgs(
            plan=plan,
            platform=platform,
            node_groups=groups,
            file_system=file_system,
            bucket=bucket,
            secrets=GivenSecrets(),
            prometheus_labels={"release": "kube-prometheus-stack"},
        ),
        pulumi.ResourceOptions(providers=[kubernetes, cloud]),
    )
    pulumi.export("urls", outputs.urls)


def whole_numbers(value: Any) -> Any:
    """Pulumi's wire has one number type; Kubernetes tells 1 from 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


def manifest(record: ResourceRecord) -> dict[str, Any]:
    """A Kubernetes object as it is applied."""
    return whole_numbers(dict(record.inputs))


def workload(world: World, model: str) -> dict[str, Any]:
    """What runs a model's pods."""
    (found,) = [r for r in world if r.name == f"{model}-workload"]
    return manifest(found)


def pod_templates(world: World, model: str) -> list[dict[str, Any]]:
    """All pod templates of a model: one, or leader and worker, or head and worker."""
    found = workload(world, model)
    spec = found["spec"]
    if found["kind"] == "Deployment":
        return [spec["template"]]
    if found["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [group["leaderTemplate"], group["workerTemplate"]]
    cluster = spec["rayClusterConfig"]
    return [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
