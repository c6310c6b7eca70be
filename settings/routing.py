"""How requests reach the replicas of a model: a plain Service, a router, and a second model behind it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from settings.base import Name, Section

RoutingPolicy = Literal["cache_aware", "least_request", "round_robin", "session"]


class Routing(Section):
    """What stands between clients and the replicas of a model."""

    kind: Literal["auto", "service", "router"] = "auto"
    """`service` is a plain Kubernetes Service, which spreads connections at random; `router` is an LLM-aware proxy
    before the pods; `auto` takes a router where a model has more than two replicas, may go to zero or has a standby.
    With two replicas and uneven requests, `router` with policy `least_request` balances what a Service cannot."""
    policy: RoutingPolicy = "cache_aware"
    """How a router chooses a replica: the one that has seen the beginning of the prompt, unless it is much busier than
    the others (`cache_aware`), the one with fewest requests of two tried (`least_request`), each in turn
    (`round_robin`), or always the same for one value of the header `X-SMG-Routing-Key` (`session`)."""


class Standby(Section):
    """Another model that answers while this one cannot."""

    model: Name
    """Name of another entry of `models`: the same weights on another pool, or a smaller model."""
    replicas: int = Field(default=1, ge=1, le=200)
    """Replicas of it that are there for this model at any time; its `replicas.min` holds them."""
