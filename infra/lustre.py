"""FSx for Lustre in front of the bucket of weights: shared, fast, and filled from S3 as files are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from planner.plan import FsxPlan

# Lustre's ports. Source: FSx for Lustre user guide, file system access control with Amazon VPC.
_PORTS = ((988, 988), (1018, 1023))


@dataclass(frozen=True, slots=True, kw_only=True)
class LustreArgs:
    """The planned file system, what it mirrors and who mounts it."""

    plan: FsxPlan
    vpc_id: pulumi.Input[str]
    subnet_id: pulumi.Input[str]
    """In the plan's zone: every read from another zone is billed and slower."""
    client_security_group_id: pulumi.Input[str]
    """The cluster's group, which every node carries."""
    bucket_name: pulumi.Input[str]
    data_repository_path: str
    """Directory of the file system, and prefix of the bucket that it mirrors."""
    key_arn: pulumi.Input[str]
    log_key_arn: pulumi.Input[str]
    log_group_name: str
    """Begins with `/aws/fsx/`, or FSx refuses it."""
    log_retention_days: int
    protect: bool
    after: tuple[pulumi.Resource, ...]
    """Policy and encryption of the bucket."""


class Lustre(pulumi.ComponentResource):
    """A persistent SSD file system with a data repository association that imports what appears in the bucket."""

    file_system_id: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    mount_name: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]
    """The association: before it the file system is empty."""

    def __init__(self, name: str, args: LustreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Lustre", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        group, rules = self._security_group()
        logs = aws.cloudwatch.LogGroup(
            f"{name}-logs",
            name=args.log_group_name,
            retention_in_days=args.log_retention_days,
            kms_key_id=args.log_key_arn,
            opts=self._child,
        )
        system = aws.fsx.LustreFileSystem(
            f"{name}-files",
            deployment_type="PERSISTENT_2",
            storage_type="SSD",
            storage_capacity=args.plan.storage_gib,
            per_unit_storage_throughput=args.plan.throughput_mbps_per_tib,
            file_system_type_version=args.plan.file_system_type_version,
            subnet_ids=args.subnet_id,
            security_group_ids=[group.id],
            kms_key_id=args.key_arn,
            efa_enabled=args.plan.efa or None,
            metadata_configuration=(
                aws.fsx.LustreFileSystemMetadataConfigurationArgs(mode="AUTOMATIC") if args.plan.efa else None
            ),
            # FSx makes no backups of a file system that mirrors a bucket, and the bucket is the copy.
            automatic_backup_retention_days=0,
            skip_final_backup=True,
            log_configuration=aws.fsx.LustreFileSystemLogConfigurationArgs(destination=logs.arn, level="WARN_ERROR"),
            tags={"Name": name},
            # FSx looks at the group's rules and refuses to begin without Lustre's ports.
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, depends_on=rules),
        )
        path = args.data_repository_path.strip("/")
        association = aws.fsx.DataRepositoryAssociation(
            f"{name}-weights",
            file_system_id=system.id,
            file_system_path=f"/{path}",
            data_repository_path=pulumi.Output.concat("s3://", args.bucket_name, f"/{path}"),
            batch_import_meta_data_on_create=True,
            # Import only: S3 is where weights are made, and a pod must not be able to change them there.
            s3=aws.fsx.DataRepositoryAssociationS3Args(
                auto_import_policy=aws.fsx.DataRepositoryAssociationS3AutoImportPolicyArgs(
                    events=["NEW", "CHANGED", "DELETED"]
                )
            ),
            delete_data_in_filesystem=False,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, depends_on=list(args.after)),
        )
        self.file_system_id = system.id
        self.dns_name = system.dns_name
        self.mount_name = system.mount_name
        self.ready = (association,)
        self.register_outputs({"file_system_id": self.file_system_id, "dns_name": self.dns_name})

    def _security_group(self) -> tuple[aws.ec2.SecurityGroup, list[pulumi.Resource]]:
        """The servers' group; they and their clients call each other on the same ports, both ways."""
        group = aws.ec2.SecurityGroup(
            f"{self._name}-servers",
            vpc_id=self._args.vpc_id,
            description="Lustre file servers",
            opts=self._child,
        )
        rules: list[pulumi.Resource] = []
        peers = {"servers": group.id, "nodes": self._args.client_security_group_id}
        for low, high in _PORTS:
            for peer, peer_id in peers.items():
                rules.append(self._ingress(f"from-{peer}", group.id, peer_id, low, high))
                rules.append(
                    aws.vpc.SecurityGroupEgressRule(
                        f"{self._name}-to-{peer}-{low}",
                        security_group_id=group.id,
                        referenced_security_group_id=peer_id,
                        ip_protocol="tcp",
                        from_port=low,
                        to_port=high,
                        opts=self._child,
                    )
                )
            rules.append(self._ingress("nodes-from-servers", self._args.client_security_group_id, group.id, low, high))
        if self._args.plan.efa:
            rules += self._everything_between(group.id, peers)
        return group, rules

    def _everything_between(
        self, group_id: pulumi.Input[str], peers: Mapping[str, pulumi.Input[str]]
    ) -> list[pulumi.Resource]:
        """EFA bypasses ports: FSx refuses an EFA-enabled file system without all traffic to itself and its clients."""
        rules: list[pulumi.Resource] = []
        for peer, peer_id in peers.items():
            rules.append(
                aws.vpc.SecurityGroupIngressRule(
                    f"{self._name}-efa-from-{peer}",
                    security_group_id=group_id,
                    referenced_security_group_id=peer_id,
                    ip_protocol="-1",
                    description="EFA",
                    opts=self._child,
                )
            )
            rules.append(
                aws.vpc.SecurityGroupEgressRule(
                    f"{self._name}-efa-to-{peer}",
                    security_group_id=group_id,
                    referenced_security_group_id=peer_id,
                    ip_protocol="-1",
                    description="EFA",
                    opts=self._child,
                )
            )
        return rules

    def _ingress(
        self, suffix: str, group_id: pulumi.Input[str], peer_id: pulumi.Input[str], low: int, high: int
    ) -> aws.vpc.SecurityGroupIngressRule:
        return aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{suffix}-{low}",
            security_group_id=group_id,
            referenced_security_group_id=peer_id,
            ip_protocol="tcp",
            from_port=low,
            to_port=high,
            description="Lustre",
            opts=self._child,
        )
