"""EKS managed add-ons: what nodes need to become ready, and what comes once nodes are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.identity import PodRole, PodRoleArgs, Statement
from infra.providers import Account
from planner.plan import AddonPlan

POD_IDENTITY_AGENT = "eks-pod-identity-agent"
EBS_CSI_DRIVER = "aws-ebs-csi-driver"
FSX_CSI_DRIVER = "aws-fsx-csi-driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonsArgs:
    """Add-ons of one phase, and what must be there first."""

    cluster_name: pulumi.Input[str]
    cluster_arn: pulumi.Input[str]
    kubernetes_version: str
    addons: Sequence[AddonPlan]
    account: Account
    statements: Mapping[str, tuple[Statement, ...]]
    """Add-on -> what its identity may do beyond the AWS managed policies of the plan."""
    after: tuple[pulumi.Resource, ...] = ()


class Addons(pulumi.ComponentResource):
    """Managed add-ons, each with its own identity where it calls AWS.

    VPC CNI gets its permissions this way too, and the node role does not have them: else any pod on the host's network
    could rewire the VPC. That works on the very first node because the Pod Identity agent runs on the host's network,
    tolerates every taint (its chart: `tolerations: [{operator: Exists}]`) and is there before CNI starts; without the
    agent aws-node crashes (amazon-vpc-cni-k8s #3840), so add-ons with an identity wait for it.
    """

    addons: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: AddonsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Addons", name, None, opts)
        self._name = name
        self._args = args
        agents = [self._addon(plan, []) for plan in args.addons if plan.name == POD_IDENTITY_AGENT]
        others = [
            self._addon(plan, agents if plan.service_account else [])
            for plan in args.addons
            if plan.name != POD_IDENTITY_AGENT
        ]
        self.addons = (*agents, *others)
        self.register_outputs({})

    def _addon(self, plan: AddonPlan, agents: Sequence[pulumi.Resource]) -> aws.eks.Addon:
        identities = None
        if plan.service_account is not None:
            role_arn = self._role_arn(plan, plan.service_account)
            identities = [
                aws.eks.AddonPodIdentityAssociationArgs(role_arn=role_arn, service_account=plan.service_account)
            ]
        return aws.eks.Addon(
            f"{self._name}-{plan.name}",
            cluster_name=self._args.cluster_name,
            addon_name=plan.name,
            addon_version=plan.version or self._default_version(plan.name),
            configuration_values=json.dumps(plan.configuration, sort_keys=True) if plan.configuration else None,
            pod_identity_associations=identities,
            # Nobody else configures these; what somebody changed by hand goes back to what the stack file says.
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*self._args.after, *agents],
                # A build that was looked up is taken once: EKS moves its default, and an `up` without a change in the
                # stack file must change nothing. A build pinned in the catalog upgrades the add-on.
                ignore_changes=None if plan.version else ["addonVersion"],
            ),
        )

    def _role_arn(self, plan: AddonPlan, service_account: str) -> pulumi.Output[str]:
        role = PodRole(
            f"{self._name}-{plan.name}",
            PodRoleArgs(
                cluster_arn=self._args.cluster_arn,
                namespace=plan.namespace,
                service_account=service_account,
                statements=self._args.statements.get(plan.name, ()),
                managed_policy_arns={
                    policy.rpartition("/")[2]: self._args.account.global_arn("iam", f"policy/{policy}", owner="aws")
                    for policy in plan.policy_arn_names
                },
            ),
            pulumi.ResourceOptions(parent=self),
        )
        return role.role_arn

    def _default_version(self, addon_name: str) -> pulumi.Output[str]:
        found = aws.eks.get_addon_version_output(
            addon_name=addon_name,
            kubernetes_version=self._args.kubernetes_version,
            most_recent=False,
            opts=pulumi.InvokeOptions(parent=self),
        )
        return found.apply(lambda answer: answer.version)
