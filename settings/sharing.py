"""Several small models on one GPU: time slices of it, or hardware partitions (MIG)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings.base import Section


class TimeSlicing(Section):
    """Pods take turns on a GPU. Memory is split by the engines' own limits alone: nothing isolates one from another."""

    kind: Literal["time_slicing"]
    replicas: int = Field(ge=2, le=16)
    """Pods that share one GPU; each engine is given this fraction of its memory."""


class Mig(Section):
    """Every GPU of a node is cut into equal slices with memory, bandwidth and multiprocessors of their own."""

    kind: Literal["mig"]
    profile: Annotated[str, Field(pattern=r"^[1-7]g\.[0-9]+gb$")]
    """NVIDIA's name of a slice, for instance `2g.20gb` of an H100: compute slices and memory."""


Sharing = Annotated[TimeSlicing | Mig, Field(discriminator="kind")]
