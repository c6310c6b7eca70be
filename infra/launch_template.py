"""Launch templates of node groups: the parts that EC2 and EKS are particular about.

What a template of a managed node group must not hold: a subnet, an instance profile, spot options. Source: EKS
CreateNodegroup, launch template specification.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_aws as aws

from planner.plan import NetworkInterfacePlan

_RAID0_NODE_CONFIG = """\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: application/node.eks.aws

---
apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  instance:
    localStorage:
      strategy: RAID0
  featureGates:
    FastImagePull: true

--//--
"""


def instance_store_user_data() -> str:
    """User data that puts images, pods and emptyDirs on one array of all NVMe disks; EKS adds the cluster's part."""
    return base64.b64encode(_RAID0_NODE_CONFIG.encode()).decode()


def instance_metadata() -> aws.ec2.LaunchTemplateMetadataOptionsArgs:
    """IMDSv2 only, and one hop: it does not leave the host's network, so pods cannot take the node's role."""
    return aws.ec2.LaunchTemplateMetadataOptionsArgs(
        http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
    )


def root_volume(size_gib: int) -> aws.ec2.LaunchTemplateBlockDeviceMappingArgs:
    """The encrypted root disk."""
    return aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
        device_name="/dev/xvda",  # root device of the AL2023 AMIs
        ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
            volume_size=size_gib, volume_type="gp3", encrypted="true", delete_on_termination="true"
        ),
    )


def network_interfaces(
    plans: Sequence[NetworkInterfacePlan], security_group_ids: Sequence[pulumi.Input[str]]
) -> list[aws.ec2.LaunchTemplateNetworkInterfaceArgs]:
    """The planned interfaces, each in every security group: EKS adds none to a template that names some."""
    return [
        aws.ec2.LaunchTemplateNetworkInterfaceArgs(
            network_card_index=plan.card_index,
            device_index=plan.device_index,
            interface_type=plan.interface_type,
            security_groups=security_group_ids,
            # An efa-only interface has no address, and RunInstances refuses to hear of public ones, be it a no
            # (karpenter-provider-aws, launchtemplate.go: InvalidParameterValue).
            associate_public_ip_address=None if plan.interface_type == "efa-only" else "false",
            delete_on_termination="true",
            description=f"card {plan.card_index} {plan.interface_type}",
        )
        for plan in plans
    ]


def tag_specifications(tags: Mapping[str, str]) -> list[aws.ec2.LaunchTemplateTagSpecificationArgs]:
    """Tags of what EC2 makes from the template; the provider's default tags stop at the template itself."""
    return [
        aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type=kind, tags=dict(tags))
        for kind in ("instance", "volume", "network-interface")
    ]


def reserved(reservation: str) -> aws.ec2.LaunchTemplateCapacityReservationSpecificationArgs:
    """Launch into this reservation, be it a block or on demand, and nowhere else: without a place in it, fail."""
    return aws.ec2.LaunchTemplateCapacityReservationSpecificationArgs(
        capacity_reservation_target=(
            aws.ec2.LaunchTemplateCapacityReservationSpecificationCapacityReservationTargetArgs(
                capacity_reservation_id=reservation
            )
        )
    )


def version_of(template: aws.ec2.LaunchTemplate) -> pulumi.Output[str]:
    """The newest version by number: `$Latest` would hide from the node group that its template changed."""
    return template.latest_version.apply(lambda version: str(int(version)))
