"""A stand-in for what Karpenter does with its custom resources: nodes as NodePools say, and gone before their classes.

Which rung gets a node, and when, the stand-in for cluster-autoscaler decides for both: by weight and by priority is the
same order. What is played here is that a node exists only by its NodePool, with that one's labels and taints, that it
goes with it, and that an EC2NodeClass cannot go before the last node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rehearsal.kube import NODE_CLASSES, NODE_POOLS, NODES, Caches, Json, Kind, Kube, key_of
from rehearsal.nodes import NODE_POOL, NodeGroup

FINALIZER: Final = "karpenter.k8s.aws/termination"
"""Karpenter's own, on every EC2NodeClass (pkg/apis/v1/labels.go at v1.14.1)."""


def as_declared(groups: Sequence[NodeGroup], node_pools: Sequence[Json]) -> list[NodeGroup]:
    """The groups that can make nodes now; Karpenter's as their NodePools have them."""
    pools = {pool["metadata"]["name"]: pool for pool in node_pools if "deletionTimestamp" not in pool["metadata"]}
    return [
        _of_pool(group, pools[group.name]) if group.node_pool else group
        for group in groups
        if not group.node_pool or group.name in pools
    ]


def _of_pool(group: NodeGroup, pool: Json) -> NodeGroup:
    template = pool["spec"]["template"]
    metadata = group.node["metadata"]
    labels = {**metadata["labels"], **template["metadata"]["labels"]}
    node = {
        **group.node,
        "metadata": {**metadata, "labels": labels},
        "spec": {"taints": template["spec"]["taints"]},
    }
    return replace(group, node=node, max_nodes=int(pool["spec"]["limits"]["nodes"]))


class Karpenter:
    """Takes nodes away with their NodePool, and holds an EC2NodeClass until the last of them is gone."""

    kinds: Sequence[Kind] = (NODE_POOLS, NODE_CLASSES, NODES)

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def reconcile(self, caches: Caches, now: float) -> float | None:  # noqa: ARG002 - the stand-ins' signature
        """Do what the objects ask for."""
        pools = {key_of(pool)[1] for pool in caches.all(NODE_POOLS)}
        mine = [node for node in caches.all(NODES) if NODE_POOL in node["metadata"]["labels"]]
        for node in mine:
            if node["metadata"]["labels"][NODE_POOL] not in pools:
                self._kube.delete(NODES, key_of(node))
        used = {pool["spec"]["template"]["spec"]["nodeClassRef"]["name"] for pool in caches.all(NODE_POOLS)}
        for item in caches.all(NODE_CLASSES):
            finalizers: list[str] = item["metadata"].get("finalizers", [])
            leaving = "deletionTimestamp" in item["metadata"]
            if not leaving and FINALIZER not in finalizers:
                self._finalizers(item, [*finalizers, FINALIZER])
            elif leaving and FINALIZER in finalizers and not mine and key_of(item)[1] not in used:
                self._finalizers(item, [name for name in finalizers if name != FINALIZER])
        return None

    def _finalizers(self, item: Json, names: list[str]) -> None:
        # A list replaces a list: on an older look it would bring back or drop finalizers of others.
        seen = item["metadata"]["resourceVersion"]
        self._kube.patch(NODE_CLASSES, key_of(item), {"metadata": {"finalizers": names}}, seen=seen)
