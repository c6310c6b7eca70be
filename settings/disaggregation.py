"""Prefill and decode on GPUs of their own: two groups of replicas behind one endpoint."""

from __future__ import annotations

from typing import Literal

from settings.base import Name, Section
from settings.placement import Layout, Replicas


class DisaggregatedGroup(Section):
    """The replicas that do one of the two phases."""

    replicas: Replicas = Replicas()
    layout: Literal["auto"] | Layout = "auto"
    pool: Name | None = None
    """Pool of this group; the model's where left out."""


class Disaggregated(Section):
    """Prompts are computed by one group of replicas, answers by another; the KV cache goes between them over EFA.

    Experimental on EFA: see docs/howto/disaggregate.md.
    """

    prefill: DisaggregatedGroup = DisaggregatedGroup()
    """Computes prompts; scaled by its queue and the time to the first token."""
    decode: DisaggregatedGroup = DisaggregatedGroup()
    """Writes answers; scaled by what runs and by its KV cache."""
    transport: Literal["ucx", "libfabric"] = "ucx"
    """What NIXL moves the KV cache with: UCX over EFA's SRD, which others have tested, or its libfabric plugin."""
