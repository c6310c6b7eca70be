"""StorageClasses on EKS, which has no default one."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from planner import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageArgs:
    """What volumes are encrypted with."""

    key_arn: pulumi.Input[str]
    """KMS key; the EBS CSI driver's role may use it."""
    after: tuple[pulumi.Resource, ...] = ()


class Storage(pulumi.ComponentResource):
    """The default class for what may go, and one whose volumes outlive their claims.

    Produces `classes`, for others to depend on.
    """

    classes: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: StorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Storage", name, None, opts)

        def storage_class(logical: str, class_name: str, *, default: bool, reclaim_policy: str) -> pulumi.Resource:
            annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
            return kubernetes.storage.v1.StorageClass(
                logical,
                metadata=kubernetes.meta.v1.ObjectMetaArgs(name=class_name, annotations=annotations),
                provisioner="ebs.csi.aws.com",
                parameters={"type": "gp3", "encrypted": "true", "kmsKeyId": args.key_arn},
                reclaim_policy=reclaim_policy,
                # A volume lives in one zone: wait for the pod, so that it is made in the zone of the pod's node.
                volume_binding_mode="WaitForFirstConsumer",
                allow_volume_expansion=True,
                # Parameters and reclaim policy cannot change in place, and both names are fixed.
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after), delete_before_replace=True),
            )

        self.classes = (
            storage_class(f"{name}-default", naming.STORAGE_CLASS, default=True, reclaim_policy="Delete"),
            storage_class(f"{name}-retained", naming.RETAINED_STORAGE_CLASS, default=False, reclaim_policy="Retain"),
        )
        self.register_outputs({})
