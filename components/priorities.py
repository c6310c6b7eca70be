"""PriorityClasses: who gives way when nodes are full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from planner import naming


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorityClass:
    """One priority; user classes go up to 1,000,000,000, pods without a class have 0."""

    name: str
    value: int
    description: str


PRIORITY_CLASSES = (
    PriorityClass(
        name=naming.SERVING_PRIORITY,
        value=1_000_000,
        description="Pods that answer requests; batch pods without a class give way to them.",
    ),
    PriorityClass(
        name=naming.CONTROLLER_PRIORITY,
        value=2_000_000,
        description="Controllers that serving depends on: operators, autoscalers, metrics.",
    ),
)


WARM_PRIORITY_CLASS = PriorityClass(
    name=naming.WARM_PRIORITY,
    # Below pods without a class, and not below -10, where cluster-autoscaler adds no node for a pod (its
    # --expendable-pods-priority-cutoff).
    value=-5,
    description="Placeholders that keep nodes booted: everything else takes their place.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrioritiesArgs:
    """What must exist before."""

    warm: bool = False
    """Whether nodes are kept warm by placeholders."""
    after: tuple[pulumi.Resource, ...] = ()


class Priorities(pulumi.ComponentResource):
    """The platform's PriorityClasses. Produces `by_name`: a pod is refused while its class does not exist."""

    by_name: Mapping[str, pulumi.Resource]

    def __init__(self, name: str, args: PrioritiesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Priorities", name, None, opts)
        self.by_name = {
            item.name: kubernetes.scheduling.v1.PriorityClass(
                f"{name}-{item.name}",
                metadata=kubernetes.meta.v1.ObjectMetaArgs(name=item.name),
                value=item.value,
                description=item.description,
                # A value cannot change in place, and the name is fixed.
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after), delete_before_replace=True),
            )
            for item in (*PRIORITY_CLASSES, *([WARM_PRIORITY_CLASS] if args.warm else []))
        }
        self.register_outputs({})
