"""Number formats that a model can be served in: as published, quantised while loading, or from another card of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from catalog.load import Catalog
from catalog.types import Gpu, ModelCard
from planner.sizing.request import Quantization, SizeError

Setting = Literal["checkpoint", "fp8", "fp8_weight_only"]
"""`quantization` of the stack file."""

_FP8 = {"fp8", "fp8_block128"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Weights as they are served."""

    card: ModelCard
    quantization: Setting
    words: str
    published: bool
    """Whether these are the asked card's own weights, unchanged."""


def cards(asked: ModelCard, wanted: Quantization, catalog: Catalog) -> tuple[ModelCard, ...]:
    """The asked card and those of its weights in other formats; raises SizeError where none is of the wanted one."""
    others = tuple(card for card in catalog.models.values() if card.base_model == asked.name)
    if wanted == "awq":
        found = tuple(card for card in (asked, *others) if card.checkpoint.format == "awq_int4")
        if not found:
            known = [name for name, card in catalog.models.items() if card.checkpoint.format == "awq_int4"]
            raise SizeError(
                f"the catalog has no AWQ weights of {asked.name}",
                help=f"--quantization any; AWQ weights are in the catalog as {', '.join(known)}",
                asked=True,
            )
        return found
    if wanted == "checkpoint":
        return (asked,)
    if wanted == "fp8":
        found = tuple(card for card in (asked, *others) if card.checkpoint.format in _FP8 | {"bf16"})
        if not found:
            raise SizeError(
                f"{asked.name} is published as {asked.checkpoint.format}, which cannot become FP8",
                help="--quantization checkpoint",
                asked=True,
            )
        return found
    return (asked, *others)


def variants(asked: ModelCard, wanted: Quantization, gpu: Gpu, catalog: Catalog) -> Iterator[Variant]:
    """What of `cards` this GPU serves; the settings are those that the planner accepts."""
    for card in cards(asked, wanted, catalog):
        published = card.checkpoint.format
        own = card is asked
        if published in _FP8:
            if gpu.fp8_hardware:
                yield Variant(card=card, quantization="checkpoint", words=published, published=own)
            else:
                words = f"{published}, weights only"
                yield Variant(card=card, quantization="fp8_weight_only", words=words, published=own)
            continue
        if wanted != "fp8":
            yield Variant(card=card, quantization="checkpoint", words=published, published=own)
        if published != "bf16" or wanted == "checkpoint":
            continue
        if gpu.fp8_hardware:
            yield Variant(card=card, quantization="fp8", words="fp8 while loading", published=False)
        else:
            words = "fp8 while loading, weights only"
            yield Variant(card=card, quantization="fp8_weight_only", words=words, published=False)
