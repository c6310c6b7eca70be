"""How often spot capacity is taken back: bands by type and region, and what a tight market looks like."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catalog.records import build
from catalog.types import Evidence, Sourced

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HOURS_PER_MONTH = 730


@dataclass(frozen=True, kw_only=True, slots=True)
class Band(Sourced):
    """A band of the share of instances interrupted in a month."""

    name: str
    low: float
    high: float
    monthly: float
    """The share that the band is counted as."""
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class TightMarket(Sourced):
    """Spot capacity that comes and goes within hours."""

    hours_between: float
    """Mean time that an instance runs until it is taken back."""
    hours_without: float
    """Mean time until there is capacity again."""
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """An answer: how often one spot instance is taken back, and how well that is known."""

    band: Band
    assumed: bool
    """True: the type or region is not in the data, and the band is the default."""
    source: str

    @property
    def per_hour(self) -> float:
        """Interruptions an hour of one instance: rate = -ln(1 - share of a month) / 730 h (a constant hazard)."""
        return -math.log1p(-self.band.monthly) / _HOURS_PER_MONTH


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruptions:
    """All that is known of spot interruptions."""

    bands: Mapping[str, Band]
    default_band: str
    instances: Mapping[str, Mapping[str, str]]
    tight: TightMarket

    def of(self, instance: str, region: str) -> Interruption:
        """What is known of a type in a region; the default band where nothing is."""
        name = self.instances.get(instance, {}).get(region)
        band = self.bands[name or self.default_band]
        told = f"{band.source}, {band.as_of}: {instance} in {region} {band.name} a month"
        unknown = f"assumed {band.name} a month: {instance} in {region} is not in {band.source}"
        return Interruption(band=band, assumed=name is None, source=told if name else unknown)


@functools.cache
def interruptions() -> Interruptions:
    """The catalog's interruption rates."""
    with (Path(__file__).parent / "interruptions.yaml").open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
    file, defaults = "interruptions.yaml", document["defaults"]
    return Interruptions(
        bands={
            name: build(Band, {**defaults, "name": name, **entry}, f"{file}: bands.{name}")
            for name, entry in document["bands"].items()
        },
        default_band=document["default_band"],
        instances=document["instances"],
        tight=build(TightMarket, document["tight_market"], f"{file}: tight_market"),
    )
