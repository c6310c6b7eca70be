"""GPU node pools: what hardware, where, and the ladder of capacity that is tried in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AwareDatetime, Discriminator, Field, Tag, field_validator, model_validator

from settings.base import AvailabilityZone, Name, Section, WrongValueError
from settings.calendar import MaintenanceWindow, ScheduledNodes, check_calendar
from settings.sharing import Sharing

ReservationId = Annotated[str, Field(pattern=r"^cr-[0-9a-f]{8,17}$")]


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


def _takes_no_reservation(value: Any, kind: str) -> Any:
    """Refuses a reservation on capacity that is bought by the hour: each has its own market, and a launch has one."""
    if isinstance(value, Mapping) and "reservation" in value:
        raise WrongValueError(
            f"{kind} capacity cannot come out of a reservation: a launch asks one market only",
            help="use `kind: capacity_block` or `kind: capacity_reservation` for it, and another rung for the rest",
            at=("reservation",),
        )
    return value  # pyright: ignore[reportUnknownVariableType] - pydantic judges it next


class SpotRung(Section):
    """Spare capacity, taken back with two minutes' notice."""

    kind: Literal["spot"]
    nodes: NodeRange

    @model_validator(mode="before")
    @classmethod
    def _own_market(cls, value: Any) -> Any:
        return _takes_no_reservation(value, "spot")


class OnDemandRung(Section):
    """Capacity at list price."""

    kind: Literal["on_demand"]
    nodes: NodeRange

    @model_validator(mode="before")
    @classmethod
    def _own_market(cls, value: Any) -> Any:
        return _takes_no_reservation(value, "on-demand")


class CapacityBlockRung(Section):
    """A bought EC2 Capacity Block for ML: prepaid, of fixed size, in one zone."""

    kind: Literal["capacity_block"]
    reservation: ReservationId
    """Id of the block's capacity reservation."""
    nodes: int = Field(ge=1, le=64)
    """Instances in the block."""
    starts: AwareDatetime | None = None
    """When the block begins, quoted, for instance "2026-12-01T11:30:00Z": groups climb to it from then on."""
    ends: AwareDatetime | None = None
    """When the block ends: its groups move down the ladder before AWS takes its instances, 30 minutes earlier."""
    placement_group: str | None = None
    """Must be left out: a block is one placement already."""

    @field_validator("placement_group")
    @classmethod
    def _no_placement_group(cls, name: str | None) -> str | None:
        if name is not None:
            raise WrongValueError(
                "a placement group with a capacity block, whose instances are outside of it: none would launch",
                help="leave it out; a block's instances lie close together already",
            )
        return name

    @model_validator(mode="after")
    def _ordered(self) -> CapacityBlockRung:
        if self.starts and self.ends and self.ends <= self.starts:
            raise WrongValueError("the block ends before it starts", help="exchange the two", at=("ends",))
        return self


class CapacityReservationRung(Section):
    """An On-Demand Capacity Reservation: held for you in one zone, and billed whether it is used or not."""

    kind: Literal["capacity_reservation"]
    reservation: ReservationId
    """Id of the reservation."""
    nodes: int = Field(ge=1, le=500)
    """Instances in the reservation."""
    placement_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")] | None = None
    """Name of the cluster placement group that the reservation was created in, and only then: instances in any other
    group cannot use it."""


Rung = Annotated[SpotRung | OnDemandRung | CapacityBlockRung | CapacityReservationRung, Field(discriminator="kind")]


def _names_many_types(value: Any) -> str | None:
    """The key by which somebody wants several instance types in one node group; None where nobody does."""
    if not isinstance(value, Mapping):
        return None
    given = cast("Mapping[str, Any]", value)
    if "instance_types" in given:
        return "instance_types"
    return "instance_type" if isinstance(given.get("instance_type"), list) else None


class NodeGroupPool(Section):
    """EKS managed node groups of one instance type, one group a rung (and zone, where it is in several)."""

    name: Name
    provisioner: Literal["node_group"] = "node_group"
    """Who makes the nodes: EKS managed node groups scaled by cluster-autoscaler."""
    instance_type: str
    """EC2 type with GPUs, for instance `p5.48xlarge`."""
    availability_zone: AvailabilityZone | None = None
    """The one zone of all its nodes; give this or `availability_zones`."""
    availability_zones: list[AvailabilityZone] = Field(default_factory=list[AvailabilityZone], max_length=6)
    """Several zones, for models that fit one node: one node group a rung and zone, so a rung's `nodes` hold in each."""
    capacity: list[Rung] = Field(min_length=1, max_length=6)
    """The ladder: rungs are tried in this order."""
    warm_nodes: int = Field(default=0, ge=0, le=50)
    """Booted nodes that placeholder pods keep beside those in use: a model's pod takes one at once, and another one
    boots. They cost as much as used ones."""
    calendar: list[ScheduledNodes] = Field(default_factory=list[ScheduledNodes], max_length=10)
    """Nodes that are there at known hours, before any pod asks for them."""
    maintenance_window: MaintenanceWindow | None = None
    """When replicas may climb back to better rungs; the target's where left out, never without either."""
    sharing: Sharing | None = None
    """Cut each GPU for several small models; whole GPUs where left out."""

    @model_validator(mode="before")
    @classmethod
    def _one_type(cls, value: Any) -> Any:
        key = _names_many_types(value)
        if key is not None:
            raise WrongValueError(
                "a node group has one instance type: a launch template fits the network cards of one, and a replica "
                "over several nodes needs equal ones",
                help="make a pool for each type, or use `provisioner: karpenter` for models on one node",
                at=(key,),
            )
        return value

    @model_validator(mode="after")
    def _one_rung_a_kind(self) -> NodeGroupPool:
        check_rungs(self.capacity)
        return self

    @model_validator(mode="after")
    def _zones(self) -> NodeGroupPool:
        check_zones(self.availability_zone, self.availability_zones, self.capacity)
        return self

    @property
    def zones(self) -> tuple[str, ...]:
        """All its zones."""
        return tuple(self.availability_zones) or ((self.availability_zone,) if self.availability_zone else ())

    @model_validator(mode="after")
    def _calendar(self) -> NodeGroupPool:
        check_calendar(
            self.calendar, sum(rung.nodes.max for rung in self.capacity if isinstance(rung, SpotRung | OnDemandRung))
        )
        return self


class KarpenterDisruption(Section):
    """When Karpenter may take a node away by itself. It never moves pods to pack nodes more tightly."""

    empty_minutes: int = Field(default=10, ge=1, le=1440)
    """How long a node without pods is kept, for a model that scales down and up again."""
    nodes_at_once: int = Field(default=1, ge=1, le=100)
    """Nodes of a rung that are replaced at the same time after a change, for instance of the AMI."""
    expire_after_days: int | None = Field(default=None, ge=1, le=365)
    """Age at which a node is replaced, pods or not; never where left out."""


class KarpenterPool(Section):
    """Nodes that Karpenter launches one by one, one NodePool a rung; for models that fit one node."""

    name: Name
    provisioner: Literal["karpenter"]
    instance_types: list[str] = Field(min_length=1, max_length=10)
    """EC2 types with the same number of the same GPU, for instance `g6e.xlarge` and `g6e.2xlarge`; models are sized
    for the smallest, and Karpenter takes the cheapest that EC2 has."""
    availability_zone: AvailabilityZone | None = None
    """The one zone of all its nodes; give this or `availability_zones`."""
    availability_zones: list[AvailabilityZone] = Field(default_factory=list[AvailabilityZone], max_length=6)
    """Several zones, in which Karpenter takes what is cheapest; a rung's `nodes` hold for all of them together."""
    capacity: list[Rung] = Field(min_length=1, max_length=6)
    """The ladder: rungs are tried in this order. Karpenter keeps no empty node, so every `nodes.min` is 0."""
    warm_nodes: int = Field(default=0, ge=0, le=50)
    """Booted nodes that placeholder pods keep beside those in use: a model's pod takes one at once, and another one
    boots. They cost as much as used ones."""
    efa: bool = False
    """Attach the type's EFA interfaces, for traffic between replicas; a model on one node does without."""
    disruption: KarpenterDisruption = KarpenterDisruption()
    sharing: Sharing | None = None
    """Cut each GPU for several small models; whole GPUs where left out."""

    @model_validator(mode="after")
    def _consistent(self) -> KarpenterPool:
        check_rungs(self.capacity)
        check_zones(self.availability_zone, self.availability_zones, self.capacity)
        if self.efa and len(self.availability_zones) > 1:
            raise WrongValueError(
                "EFA reaches nodes of one zone only",
                help="keep one zone, or leave `efa` out",
                at=("availability_zones",),
            )
        for index, rung in enumerate(self.capacity):
            if isinstance(rung.nodes, NodeRange) and rung.nodes.min:
                raise WrongValueError(
                    "Karpenter launches nodes for pods that wait, and keeps none without",
                    help="set min to 0 (a model's `replicas.min` keeps its nodes), or use `provisioner: node_group`",
                    at=("capacity", index, "nodes", "min"),
                )
        for index, name in enumerate(self.instance_types):
            if name in self.instance_types[:index]:
                raise WrongValueError(f"`{name}` is named twice", help="remove one", at=("instance_types", index))
        if self.efa and len(self.instance_types) > 1:
            raise WrongValueError(
                "each type has network cards of its own, so a pool with EFA has one type",
                help="keep one type, or leave `efa` out",
                at=("instance_types",),
            )
        return self

    @property
    def zones(self) -> tuple[str, ...]:
        """All its zones."""
        return tuple(self.availability_zones) or ((self.availability_zone,) if self.availability_zone else ())


def check_rungs(capacity: list[Rung]) -> None:
    """Raises WrongValueError where a ladder has the same rung twice."""
    seen: set[str] = set()
    for index, rung in enumerate(capacity):
        key = rung.kind if isinstance(rung, SpotRung | OnDemandRung) else rung.reservation
        if key in seen:
            raise WrongValueError(f"a second rung `{key}`", help="merge the two", at=("capacity", index))
        seen.add(key)


def check_zones(one: str | None, several: list[str], capacity: list[Rung]) -> None:
    """Raises WrongValueError where a pool names no zone, both ways, a zone twice, or a reservation and many zones."""
    if one is not None and several:
        raise WrongValueError("a zone, and several", help="keep one of the two", at=("availability_zones",))
    if one is None and not several:
        raise WrongValueError(
            "says no zone", help="add `availability_zone: <zone>`, or `availability_zones` for several", at=()
        )
    for index, zone in enumerate(several):
        if zone in several[:index]:
            raise WrongValueError(f"`{zone}` is named twice", help="remove one", at=("availability_zones", index))
    if len(several) == 1:
        raise WrongValueError(
            "several zones are two at least",
            help=f"write `availability_zone: {several[0]}`",
            at=("availability_zones",),
        )
    if not several:
        return
    for index, rung in enumerate(capacity):
        if isinstance(rung, CapacityBlockRung | CapacityReservationRung):
            raise WrongValueError(
                "a reservation lies in one zone, and the pool in several",
                help="give it a pool of its own in its zone",
                at=("capacity", index),
            )


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
    sharing: Sharing | None = None
    """Cut each GPU for several small models; whole GPUs where left out."""


def _pool_kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("provisioner", "node_group"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return str(getattr(value, "provisioner", "node_group"))


Pool = Annotated[
    Annotated[NodeGroupPool, Tag("node_group")]
    | Annotated[KarpenterPool, Tag("karpenter")]
    | Annotated[ExistingPool, Tag("existing")],
    Discriminator(_pool_kind),
]
