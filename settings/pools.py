"""GPU node pools: what hardware, where, and the ladder of capacity that is tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from settings.base import AvailabilityZone, Name, Section, WrongValueError


class NodeRange(Section):
    """How many nodes a rung may have."""

    min: int = Field(default=0, ge=0, le=500)
    """Nodes that always run (and always cost)."""
    max: int = Field(ge=1, le=500)
    """Nodes at most."""

    @model_validator(mode="after")
    def _ordered(self) -> NodeRange:
        if self.max < self.min:
            raise WrongValueError(f"max ({self.max}) is below min ({self.min})", help="raise max", at=("max",))
        return self


class SpotRung(Section):
    """Spare capacity, taken back with two minutes' notice."""

    kind: Literal["spot"]
    nodes: NodeRange


class OnDemandRung(Section):
    """Capacity at list price."""

    kind: Literal["on_demand"]
    nodes: NodeRange


class CapacityBlockRung(Section):
    """A bought EC2 Capacity Block for ML: prepaid, of fixed size, in one zone."""

    kind: Literal["capacity_block"]
    reservation: Annotated[str, Field(pattern=r"^cr-[0-9a-f]{8,17}$")]
    """Id of the block's capacity reservation."""
    nodes: int = Field(ge=1, le=64)
    """Instances in the block."""


Rung = Annotated[SpotRung | OnDemandRung | CapacityBlockRung, Field(discriminator="kind")]


class NodeGroupPool(Section):
    """EKS managed node groups of one instance type in one zone, one group a rung."""

    name: Name
    provisioner: Literal["node_group"] = "node_group"
    """Who makes the nodes: EKS managed node groups scaled by cluster-autoscaler."""
    instance_type: str
    """EC2 type with GPUs, for instance `p5.48xlarge`."""
    availability_zone: AvailabilityZone
    """The one zone of all its nodes."""
    capacity: list[Rung] = Field(min_length=1, max_length=6)
    """The ladder: rungs are tried in this order."""

    @model_validator(mode="after")
    def _one_rung_a_kind(self) -> NodeGroupPool:
        seen: set[str] = set()
        for index, rung in enumerate(self.capacity):
            key = rung.reservation if isinstance(rung, CapacityBlockRung) else rung.kind
            if key in seen:
                raise WrongValueError(f"a second rung `{key}`", help="merge the two", at=("capacity", index))
            seen.add(key)
        return self


class ExistingPool(Section):
    """GPU nodes that exist in the target cluster."""

    name: Name
    provisioner: Literal["existing"]
    gpu: str
    """GPU model of the catalog, for instance `A100-80`."""
    gpus_per_node: int = Field(ge=1, le=16)
    nodes: int = Field(ge=1, le=500)
    """Nodes of this shape in the cluster."""
    vcpus: int = Field(ge=2, le=1024)
    """vCPUs of one node."""
    memory_gib: int = Field(ge=8, le=8192)
    """RAM of one node in GiB."""
    node_selector: dict[str, str] = Field(min_length=1)
    """Labels that these nodes carry."""
    nvlink: bool = False
    """Whether the GPUs of one node are joined by NVLink."""


def _pool_kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("provisioner", "node_group"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return str(getattr(value, "provisioner", "node_group"))


Pool = Annotated[
    Annotated[NodeGroupPool, Tag("node_group")] | Annotated[ExistingPool, Tag("existing")],
    Discriminator(_pool_kind),
]
