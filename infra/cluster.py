"""The EKS control plane, and who may talk to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.identity import Statement, document, service_trust
from infra.providers import Account
from planner.plan import EksPlan

_LOG_TYPES = ["api", "audit", "authenticator", "controllerManager", "scheduler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterArgs:
    """The planned cluster and where it lives."""

    plan: EksPlan
    account: Account
    subnet_ids: Sequence[pulumi.Input[str]]
    """Private subnets of at least two zones, for the control plane's network interfaces."""
    private_cidrs: Sequence[str]
    """Ranges outside the cluster that reach the private endpoint."""
    key_arn: pulumi.Input[str]
    """Encrypts Kubernetes Secrets and the control plane's logs."""
    protect: bool
    after: tuple[pulumi.Resource, ...]
    """Routes and endpoints of the network: nodes need them for as long as the cluster lives."""


class Cluster(pulumi.ComponentResource):
    """Control plane with access by API entries, encrypted Secrets and kept logs. No add-on comes by itself."""

    cluster_name: pulumi.Output[str]
    arn: pulumi.Output[str]
    endpoint: pulumi.Output[str]
    certificate_authority: pulumi.Output[str]
    """Base64 of PEM."""
    security_group_id: pulumi.Output[str]
    """Made by EKS; every node carries it."""
    access: tuple[pulumi.Resource, ...]
    """What gives administrators, and so the deployer, their rights: nothing in the cluster can be made before."""

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Cluster", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        role, permissions = self._role()
        # EKS would make the group itself, kept for ever and without our key.
        logs = aws.cloudwatch.LogGroup(
            f"{name}-logs",
            name=f"/aws/eks/{args.plan.cluster_name}/cluster",
            retention_in_days=args.plan.log_retention_days,
            kms_key_id=args.key_arn,
            opts=self._child,
        )
        cluster = aws.eks.Cluster(
            f"{name}-eks",
            name=args.plan.cluster_name,
            version=args.plan.kubernetes_version,
            role_arn=role.arn,
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode="API",
                # Only the named administrators: who happened to run the first `up` leaves no trace.
                bootstrap_cluster_creator_admin_permissions=False,
            ),
            # Our pinned, configured add-ons instead of the ones that EKS would put there unmanaged.
            bootstrap_self_managed_addons=False,
            deletion_protection=args.protect,
            enabled_cluster_log_types=_LOG_TYPES,
            encryption_config=aws.eks.ClusterEncryptionConfigArgs(
                provider=aws.eks.ClusterEncryptionConfigProviderArgs(key_arn=args.key_arn), resources=["secrets"]
            ),
            kubernetes_network_config=aws.eks.ClusterKubernetesNetworkConfigArgs(
                service_ipv4_cidr=args.plan.service_cidr
            ),
            # Extended support costs six times as much an hour; better a forced upgrade that is announced for months.
            upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=args.subnet_ids,
                endpoint_private_access=True,
                endpoint_public_access=bool(args.plan.public_cidrs),
                public_access_cidrs=list(args.plan.public_cidrs) or None,
            ),
            opts=pulumi.ResourceOptions(
                parent=self, protect=args.protect, depends_on=[*permissions, logs, *args.after]
            ),
        )
        self.cluster_name = cluster.name
        self.arn = cluster.arn
        self.endpoint = cluster.endpoint
        self.certificate_authority = cluster.certificate_authority.apply(_authority)
        self.security_group_id = cluster.vpc_config.apply(_security_group)
        reach = [self._reach(cidr) for cidr in args.private_cidrs]
        self.access = (*reach, *(self._administrator(cluster, arn) for arn in args.plan.admins))
        self.register_outputs({"cluster_name": self.cluster_name, "arn": self.arn, "endpoint": self.endpoint})

    def _role(self) -> tuple[aws.iam.Role, list[pulumi.Resource]]:
        """The control plane's role and its permissions, which the cluster must outlive neither way."""
        role = aws.iam.Role(
            f"{self._name}-role",
            description=f"Control plane of {self._args.plan.cluster_name}",
            assume_role_policy=service_trust("eks.amazonaws.com"),
            opts=self._child,
        )
        attachment = aws.iam.RolePolicyAttachment(
            f"{self._name}-AmazonEKSClusterPolicy",
            role=role.name,
            policy_arn=self._args.account.global_arn("iam", "policy/AmazonEKSClusterPolicy", owner="aws"),
            opts=self._child,
        )
        secrets = aws.iam.RolePolicy(
            f"{self._name}-secrets",
            role=role.name,
            policy=document(
                [
                    Statement(
                        sid="EncryptSecrets",
                        actions=("kms:Encrypt", "kms:Decrypt", "kms:ListGrants", "kms:DescribeKey"),
                        resources=(self._args.key_arn,),
                    )
                ]
            ),
            opts=self._child,
        )
        return role, [attachment, secrets]

    def _reach(self, cidr: str) -> aws.vpc.SecurityGroupIngressRule:
        return aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-api-from-{cidr}",
            security_group_id=self.security_group_id,
            cidr_ipv4=cidr,
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            description="Private API endpoint",
            opts=self._child,
        )

    def _administrator(self, cluster: aws.eks.Cluster, principal_arn: str) -> aws.eks.AccessPolicyAssociation:
        # The principal is the identity of the entry, so it names it: a list in another order replaces nothing.
        suffix = principal_arn.partition("::")[2].replace(":", "/")
        entry = aws.eks.AccessEntry(
            f"{self._name}-admin-{suffix}",
            cluster_name=cluster.name,
            principal_arn=principal_arn,
            type="STANDARD",
            opts=self._child,
        )
        return aws.eks.AccessPolicyAssociation(
            f"{self._name}-admin-{suffix}",
            cluster_name=cluster.name,
            principal_arn=principal_arn,
            policy_arn=self._args.account.global_arn(
                "eks", "cluster-access-policy/AmazonEKSClusterAdminPolicy", owner="aws"
            ),
            access_scope=aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[entry]),
        )


def _security_group(config: aws.eks.outputs.ClusterVpcConfig) -> str:
    if config.cluster_security_group_id is None:
        raise ValueError("EKS answered without a cluster security group")
    return config.cluster_security_group_id


def _authority(authority: aws.eks.outputs.ClusterCertificateAuthority) -> str:
    if authority.data is None:
        raise ValueError("EKS answered without a certificate authority")
    return authority.data
