"""Engine images on the nodes before a replica needs them.

Images of engines are among the largest there are, and a pod pulls its own when it is placed. On a node that has just
booted for a pod nothing is gained by pulling earlier: both begin at the same moment. It pays on nodes that stand: warm
nodes, a rung's minimum, reserved capacity that waits, a card of which another model has the other part; and in a
rollout, where every node pulls the new image while the old one serves, so that only the first replica waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalog.assumptions import assumed
from planner.naming import IMAGE_PULL_NAMESPACE
from planner.plan import ImagePullPlan, ModelPlan, PoolPlan

_SETTLE = 2
"""Pulls of the planned length that a new node is left alone for: its own pods come first."""


def pull_seconds() -> int:
    """Planned: one engine image onto a node that has nothing of it."""
    return math.ceil(assumed("image_gigabytes") * 1000 / assumed("image_pull_mb_per_s"))


def plan_image_pulls(
    pools: Sequence[PoolPlan], models: Sequence[ModelPlan], *, wanted: bool, idle_image: str, settle_image: str
) -> tuple[ImagePullPlan, ...]:
    """What to pull on which pools.

    Args:
        pools: all pools.
        models: all models, in the order in which a node pulls their images.
        wanted: the stack file's word.
        idle_image: of a container that does nothing.
        settle_image: small, with `sleep`.
    """
    if not wanted:
        return ()
    found: list[ImagePullPlan] = []
    for pool in pools:
        images = tuple(dict.fromkeys(model.container.image for model in models if model.pool == pool.name))
        if images:
            found.append(
                ImagePullPlan(
                    pool=pool.name,
                    namespace=IMAGE_PULL_NAMESPACE,
                    images=images,
                    idle_image=idle_image,
                    settle_image=settle_image,
                    settle_seconds=_SETTLE * pull_seconds() if len(images) > 1 else 0,
                    seconds_saved=pull_seconds(),
                    node_selector=pool.node_selector,
                    taints=pool.taints,
                )
            )
    return tuple(found)
