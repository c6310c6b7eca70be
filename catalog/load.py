"""Loading of the catalog: each file is read when it is first asked for, once a process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import yaml

from catalog.prices import InstancePrices, Prices, ServicePrice, SpotRatio
from catalog.records import CatalogError, build
from catalog.types import (
    Addon,
    Ami,
    Chart,
    CrdSet,
    Engine,
    Gpu,
    Image,
    Instance,
    KubernetesVersion,
    ModelCard,
    Region,
    Versions,
)

DIRECTORY = Path(__file__).parent

# The C parser is ten times as fast; wheels of PyYAML carry it, source builds may not.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")
Document = dict[str, Any]


class Catalog:
    """Typed facts by key; an unknown key raises KeyError."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory

    @functools.cached_property
    def instances(self) -> Mapping[str, Instance]:
        """EC2 instance types by name."""
        return self._table("instances", Instance)

    @functools.cached_property
    def gpus(self) -> Mapping[str, Gpu]:
        """GPU models by name."""
        return self._table("gpus", Gpu)

    @functools.cached_property
    def models(self) -> Mapping[str, ModelCard]:
        """Model cards by hub id."""
        return self._table("models", ModelCard)

    @functools.cached_property
    def engines(self) -> Mapping[str, Engine]:
        """Inference engines: `vllm`, `sglang`, `ray-llm`."""
        return self._table("engines", Engine)

    @functools.cached_property
    def crds(self) -> Mapping[str, CrdSet]:
        """Custom resources by folder name under CRD_DIR."""
        return self._table("crds", CrdSet)

    @functools.cached_property
    def versions(self) -> Versions:
        """Pinned charts, images, add-ons, Kubernetes versions and AMIs."""
        document = self._read("versions")
        return Versions(
            charts=_table(document, "charts", Chart, "versions.yaml"),
            images=_table(document, "images", Image, "versions.yaml"),
            addons=_table(document, "addons", Addon, "versions.yaml"),
            kubernetes=_table(document, "kubernetes", KubernetesVersion, "versions.yaml"),
            default_kubernetes=str(document["default_kubernetes"]),
            amis=_table(document, "amis", Ami, "versions.yaml"),
        )

    @functools.cached_property
    def prices(self) -> Prices:
        """What things cost; answers say how well a price is known."""
        document = self._read("prices")
        return Prices(
            home_region=str(document["home_region"]),
            instances=_nested_quotes(document),
            services=_table(document, "services", ServicePrice, "prices.yaml"),
            spot_ratio=build(SpotRatio, {**document["defaults"], **document["spot_ratio"]}, "prices.yaml: spot_ratio"),
        )

    @functools.cached_property
    def regions(self) -> Mapping[str, Region]:
        """Regions with their zones and what each zone offers."""
        document = self._read("offerings")
        for name, region in document["regions"].items():
            # The file writes zone letters; a zone's name is the region's with the letter appended.
            region["offerings"] = {
                instance: [f"{name}{letter}" for letter in letters] for instance, letters in region["offerings"].items()
            }
        return _table(document, "regions", Region, "offerings.yaml")

    def _read(self, stem: str) -> Document:
        path = self._directory / f"{stem}.yaml"
        with path.open(encoding="utf-8") as stream:
            document = yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
        if not isinstance(document, dict):
            raise CatalogError(f"{path.name}: expected a mapping")
        return cast("Document", document)

    def _table(self, stem: str, cls: type[T]) -> Mapping[str, T]:
        return _table(self._read(stem), stem, cls, f"{stem}.yaml")


def _table(document: Document, section: str, cls: type[T], file: str) -> Mapping[str, T]:
    """One section of a file: entries named by their keys, sourced like the file unless they say otherwise."""
    defaults = document["defaults"]
    return MappingProxyType(
        {
            key: build(cls, {**defaults, "name": key, **entry}, f"{file}: {section}.{key}")
            for key, entry in document[section].items()
        }
    )


def _nested_quotes(document: Document) -> Mapping[str, InstancePrices]:
    """Instance prices, whose provenance sits on each quote: kind -> region -> quote."""
    defaults = document["defaults"]
    return MappingProxyType(
        {
            name: build(
                InstancePrices,
                {
                    kind: {region: {**defaults, **quote} for region, quote in regions.items()}
                    for kind, regions in kinds.items()
                },
                f"prices.yaml: instances.{name}",
            )
            for name, kinds in document["instances"].items()
        }
    )


@functools.cache
def load() -> Catalog:
    """The catalog that ships with the project; the same object on every call."""
    return Catalog()
