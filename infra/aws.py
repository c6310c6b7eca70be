"""Everything of AWS, in one call: what `program.build` declares first and hands to the components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from infra import keys, permissions, providers
from infra.addons import EBS_CSI_DRIVER, FSX_CSI_DRIVER, Addons, AddonsArgs
from infra.cluster import Cluster, ClusterArgs
from infra.identity import Statement
from infra.image_cache import ImageCache, ImageCacheArgs, first_pull
from infra.karpenter import Karpenter, KarpenterArgs, KarpenterOutputs
from infra.lustre import Lustre, LustreArgs
from infra.network import Network, NetworkArgs, NetworkOutputs, existing_network
from infra.node_groups import GpuPool, GpuPoolArgs, NodeHome, NodeRole, SystemNodes, SystemNodesArgs
from infra.providers import Account
from infra.spend_guard import SpendGuard, SpendGuardArgs
from infra.weights import Weights, WeightsArgs
from planner.plan import EksPlan, ExistingNetworkPlan, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class EksOutputs:
    """The cluster, and what an `infra.identity.PodIdentity` for a controller in it takes."""

    name: pulumi.Output[str]
    arn: pulumi.Output[str]
    endpoint: pulumi.Output[str]
    security_group_id: pulumi.Output[str]
    vpc_id: pulumi.Input[str]
    key_arn: pulumi.Output[str]
    """KMS key of persistent volumes; the EBS CSI driver may use it."""
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOutputs:
    """The bucket of weights; `ready` is what makes it safe to use."""

    bucket_name: pulumi.Output[str]
    bucket_arn: pulumi.Output[str]
    key_arn: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LustreOutputs:
    """What a static PersistentVolume of the file system takes; `ready` is the association with the bucket."""

    file_system_id: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    mount_name: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOutputs:
    """What the components build on. For a cluster that exists only `kubernetes` is there."""

    kubernetes: k8s.Provider
    """Depends on `ready`, and so does every object made through it."""
    aws: aws.Provider | None = None
    """For a component that makes pod identities: `providers=[outputs.kubernetes, outputs.aws]`."""
    eks: EksOutputs | None = None
    ready: tuple[pulumi.Resource, ...] = ()
    """Access, network, add-ons and system nodes."""
    node_groups: Mapping[str, tuple[pulumi.Resource, ...]] = field(
        default_factory=dict[str, tuple[pulumi.Resource, ...]]
    )
    """Pool -> its node groups, in the order of the ladder. Nothing should wait for them: capacity may be scarce."""
    weights: WeightsOutputs | None = None
    lustre: LustreOutputs | None = None
    karpenter: KarpenterOutputs | None = None
    """There where a pool is Karpenter's."""


def declare(plan: Plan) -> AwsOutputs:
    """Declares the AWS side of a plan; for an existing cluster that is its Kubernetes provider and nothing else."""
    if not isinstance(plan.target, EksPlan):
        return AwsOutputs(kubernetes=providers.existing_kubernetes_provider(plan.target))
    return _Layer(plan, plan.target).outputs()


class _Layer:
    """One EKS platform, step by step, each from what the earlier ones made."""

    def __init__(self, plan: Plan, target: EksPlan) -> None:
        self._plan = plan
        self._target = target
        region = providers.region_of(plan)
        self._provider = providers.aws_provider(
            region, plan.tags, account_id=target.account_id, profile=plan.aws_profile
        )
        self._account = providers.account_of(self._provider, region)
        self._options = pulumi.ResourceOptions(providers=[self._provider])

    def outputs(self) -> AwsOutputs:
        """Declares everything, in the order in which it comes to be."""
        if self._plan.spend_guard:
            SpendGuard("spend-guard", SpendGuardArgs(plan=self._plan.spend_guard), self._options)
        key_arn = self._key(
            "cluster-key",
            "Kubernetes Secrets and logs of the inference platform",
            keys.for_log_groups(self._account),
            keep=self._plan.protect_cluster,
        )
        data_key_arn = self._data_key()
        network = self._network(key_arn)
        cluster = self._cluster(network, key_arn)
        first = self._addons("addons-nodes", "before_nodes", cluster, after=(), statements={})
        images = self._plan.image_cache
        rules = ImageCache("image-cache", ImageCacheArgs(plan=images), self._options).ready if images else ()
        role = NodeRole("node", self._account, self._options, statements=self._node_statements())
        home = NodeHome(
            cluster_name=cluster.cluster_name,
            kubernetes_version=self._target.kubernetes_version,
            cluster_security_group_id=cluster.security_group_id,
            vpc_id=network.vpc_id,
            node_role_arn=role.arn,
            tags=self._plan.tags,
            after=(*role.permissions, *rules, *network.egress, *first),
        )
        system = SystemNodes(
            "system",
            SystemNodesArgs(
                plan=self._target.system,
                home=home,
                subnet_ids=[network.private_subnets[zone] for zone in self._target.system.zones],
            ),
            self._options,
        )
        later = self._addons(
            "addons",
            "after_nodes",
            cluster,
            after=(system.group,),
            statements={
                EBS_CSI_DRIVER: permissions.encrypt_volumes(data_key_arn),
                FSX_CSI_DRIVER: permissions.describe_file_systems(self._account),
            },
        )
        pools = {
            pool.name: GpuPool(
                f"pool-{pool.name}",
                GpuPoolArgs(
                    plan=pool, home=home, subnet_ids={zone: network.private_subnets[zone] for zone in pool.zones}
                ),
                self._options,
            )
            for pool in self._plan.pools
            if pool.provisioner == "node_group"
        }
        weights = self._weights(data_key_arn)
        ready = (*cluster.access, *first, system.group, *later)
        return AwsOutputs(
            kubernetes=providers.eks_kubernetes_provider(
                cluster_name=cluster.cluster_name,
                endpoint=cluster.endpoint,
                certificate_authority=cluster.certificate_authority,
                region=self._account.region,
                profile=self._plan.aws_profile,
                ready=ready,
                parent=cluster,
            ),
            aws=self._provider,
            eks=EksOutputs(
                name=cluster.cluster_name,
                arn=cluster.arn,
                endpoint=cluster.endpoint,
                security_group_id=cluster.security_group_id,
                vpc_id=network.vpc_id,
                key_arn=data_key_arn,
                account=self._account,
            ),
            ready=ready,
            node_groups={name: pool.groups for name, pool in pools.items()},
            weights=weights,
            lustre=self._lustre(network, cluster, weights, key_arn),
            karpenter=self._karpenter(network, cluster, data_key_arn, after=(*network.egress, *first)),
        )

    def _node_statements(self) -> tuple[Statement, ...]:
        """What nodes may do beyond what AWS's policies for them say."""
        images = self._plan.image_cache
        return (first_pull(images, self._account),) if images else ()

    def _key(self, name: str, description: str, *statements: dict[str, Any], keep: bool) -> pulumi.Output[str]:
        args = keys.KeyArgs(description=description, account=self._account, statements=statements, keep=keep)
        return keys.Key(name, args, self._options).arn

    def _network(self, log_key_arn: pulumi.Output[str]) -> NetworkOutputs:
        plan = self._plan.network
        if isinstance(plan, ExistingNetworkPlan):
            return existing_network(plan)
        if plan is None:
            raise ValueError(f"stack {self._plan.stack}: an EKS target needs a network; name one in the stack file")
        args = NetworkArgs(
            plan=plan, account=self._account, cluster_name=self._target.cluster_name, log_key_arn=log_key_arn
        )
        return Network("network", args, self._options).outputs

    def _cluster(self, network: NetworkOutputs, key_arn: pulumi.Output[str]) -> Cluster:
        return Cluster(
            "cluster",
            ClusterArgs(
                plan=self._target,
                account=self._account,
                subnet_ids=[network.private_subnets[zone] for zone in network.control_plane_zones],
                private_cidrs=self._target.private_cidrs,
                key_arn=key_arn,
                protect=self._plan.protect_cluster,
                after=network.egress,
            ),
            self._options,
        )

    def _addons(
        self,
        name: str,
        phase: str,
        cluster: Cluster,
        after: tuple[pulumi.Resource, ...],
        statements: Mapping[str, tuple[Statement, ...]],
    ) -> tuple[pulumi.Resource, ...]:
        args = AddonsArgs(
            cluster_name=cluster.cluster_name,
            cluster_arn=cluster.arn,
            kubernetes_version=self._target.kubernetes_version,
            addons=[addon for addon in self._target.addons if addon.phase == phase],
            account=self._account,
            statements=statements,
            after=after,
        )
        return Addons(name, args, self._options).addons

    def _data_key(self) -> pulumi.Output[str]:
        users = [keys.for_lustre_imports(self._account)] if self._plan.cache.fsx else []
        users += keys.for_launched_volumes(self._account) if self._plan.karpenter else ()
        return self._key(
            "data-key", "Model weights, their cache and persistent volumes", *users, keep=self._plan.protect_data
        )

    def _karpenter(
        self,
        network: NetworkOutputs,
        cluster: Cluster,
        data_key_arn: pulumi.Output[str],
        after: tuple[pulumi.Resource, ...],
    ) -> KarpenterOutputs | None:
        if self._plan.karpenter is None:
            return None
        args = KarpenterArgs(
            cluster_name=self._target.cluster_name,
            cluster=cluster.cluster_name,
            cluster_arn=cluster.arn,
            cluster_security_group_id=cluster.security_group_id,
            vpc_id=network.vpc_id,
            account=self._account,
            pools=[pool for pool in self._plan.pools if pool.karpenter],
            private_subnets=network.private_subnets,
            volume_key_arn=data_key_arn,
            node_statements=self._node_statements(),
            after=after,
        )
        return Karpenter("karpenter", args, self._options).outputs

    def _weights(self, key_arn: pulumi.Output[str]) -> WeightsOutputs | None:
        if not self._plan.cache.bucket:
            return None
        bucket = Weights("weights", WeightsArgs(key_arn=key_arn, keep=self._plan.protect_data), self._options)
        return WeightsOutputs(
            bucket_name=bucket.bucket_name, bucket_arn=bucket.arn, key_arn=key_arn, ready=bucket.ready
        )

    def _lustre(
        self,
        network: NetworkOutputs,
        cluster: Cluster,
        weights: WeightsOutputs | None,
        log_key_arn: pulumi.Output[str],
    ) -> LustreOutputs | None:
        cache = self._plan.cache
        if cache.fsx is None:
            return None
        if weights is None:
            raise ValueError(
                f"stack {self._plan.stack}: FSx for Lustre mirrors a bucket of weights, and none is planned"
            )
        args = LustreArgs(
            plan=cache.fsx,
            vpc_id=network.vpc_id,
            subnet_id=network.private_subnets[cache.fsx.zone],
            client_security_group_id=cluster.security_group_id,
            bucket_name=weights.bucket_name,
            data_repository_path=cache.data_repository_path,
            key_arn=weights.key_arn,
            log_key_arn=log_key_arn,
            log_group_name=f"/aws/fsx/{self._target.cluster_name}",
            log_retention_days=self._target.log_retention_days,
            protect=self._plan.protect_cluster,
            after=weights.ready,
        )
        files = Lustre("lustre", args, self._options)
        return LustreOutputs(
            file_system_id=files.file_system_id,
            dns_name=files.dns_name,
            mount_name=files.mount_name,
            ready=files.ready,
        )
