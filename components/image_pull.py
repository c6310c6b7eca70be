"""Engine images on the nodes of a pool before a replica needs them: a DaemonSet a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components._pods import confined, idle_pod, pulls_with
from components.serving.pods import SKIP_AWAIT, tolerations
from planner import naming
from planner.plan import ImagePullPlan

_NAME = "image-pull"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePullArgs:
    """What is pulled where, and what must exist before."""

    plans: tuple[ImagePullPlan, ...]
    after: tuple[pulumi.Resource, ...] = ()
    pull_secret: str | None = None


def labels(plan: ImagePullPlan) -> dict[str, str]:
    """Of a pool's pods; nothing else carries the name and the pool."""
    return {"app.kubernetes.io/name": _NAME, naming.POOL_LABEL: plan.pool}


def daemon_set_spec(plan: ImagePullPlan, pull_secret: str | None = None) -> dict[str, Any]:
    """One pod a node. Each init container runs `true` in one engine's image; then the pod idles.

    Autoscalers count no DaemonSet's pod as a reason to keep or to add a node.
    """
    pull = [_container(f"pull-{index}", image, ["true"]) for index, image in enumerate(plan.images)]
    if plan.settle_seconds:
        pull.insert(0, _container("settle", plan.settle_image, ["sleep", str(plan.settle_seconds)]))
    pod: dict[str, Any] = {
        **idle_pod(),
        **pulls_with(pull_secret),
        "nodeSelector": dict(plan.node_selector),
        "tolerations": tolerations(plan.taints),
        "initContainers": pull,
        "containers": [_container("idle", plan.idle_image, None)],
    }
    return {
        "selector": {"matchLabels": labels(plan)},
        # All nodes at once: nobody waits for these pods, and the replicas are replaced one after the other meanwhile.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": {"metadata": {"labels": {**labels(plan), naming.PART_OF_LABEL: naming.PROJECT}}, "spec": pod},
    }


def _container(name: str, image: str, command: list[str] | None) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        **({"command": command} if command else {}),
        "env": [naming.NO_GPU],
        # Not less: the start of runc itself counts (opencontainers/runc#1980).
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": confined(),
    }


class ImagePull(pulumi.ComponentResource):
    """A DaemonSet for each pool with models. Produces `by_pool`: models come after, so that a new image is asked for
    before the first replica is replaced; nobody waits for the pull itself."""

    by_pool: Mapping[str, pulumi.Resource]

    def __init__(self, name: str, args: ImagePullArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:ImagePull", name, None, opts)
        found: dict[str, pulumi.Resource] = {}
        for plan in args.plans:
            spec: Any = daemon_set_spec(plan, args.pull_secret)
            found[plan.pool] = kubernetes.apps.v1.DaemonSet(
                f"{name}-{plan.pool}",
                metadata=kubernetes.meta.v1.ObjectMetaArgs(
                    name=plan.pool,
                    namespace=plan.namespace,
                    labels={**labels(plan), naming.PART_OF_LABEL: naming.PROJECT},
                    annotations=SKIP_AWAIT,
                ),
                spec=spec,
                opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
            )
        self.by_pool = found
        self.register_outputs({})
