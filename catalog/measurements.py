"""What was measured on real GPUs (`bench/gpu/`), and the factors that predict from it.

`catalog/measurements/<name>.yaml` holds every point of one machine; `factors.yaml` what `bench/gpu/fit.py` made of some
of them. How good the predictions are stands in docs/explanation/calibration.md. None of it is an inference engine: no
scheduler, no paging, no sampling.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import yaml

from catalog.records import build
from catalog.types import Gpu, Sourced

Precision = Literal["bf16", "fp8"]
"""Of the weights and the activations that they are multiplied with; the KV cache was bf16 throughout."""

DIRECTORY = Path(__file__).parent / "measurements"
T = TypeVar("T")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePoint:
    """One decode step of `batch` sequences, each `tokens` long with the new token."""

    model: str
    precision: Precision
    layers: int
    batch: int
    tokens: int
    weights_gb: float
    """Decimal GB of the matrices, all of which a step reads; without the embedding table."""
    kv_gb: float
    """Decimal GB of the keys and values, all of which a step reads."""
    ms: float
    attention_ms: float
    """Attention of all layers alone."""
    attention: str
    """The library that was fastest at it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillPoint:
    """The first pass over `batch` prompts of `tokens` tokens."""

    model: str
    precision: Precision
    layers: int
    batch: int
    tokens: int
    matrix_tflop: float
    """10^12 operations, two a weight and token."""
    attention_tflop: float
    """Two products, half of them masked."""
    ms: float
    attention_ms: float
    attention: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixPoint:
    """x[m, k] times weights[n, k]."""

    model: str
    precision: Precision
    m: int
    n: int
    k: int
    us: float
    tflops: float
    weight_gb_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPoint:
    """One layer of experts, by grouped products over randomly routed rows; routing and summing up are not in it."""

    model: str
    precision: Precision
    tokens: int
    experts: int
    top_k: int
    touched: int
    """Experts that got a row."""
    hidden: int
    intermediate: int
    us: float
    weight_gb_per_s: float
    """Weights of the touched experts over the time."""
    tflops: float
    tile: str
    """Rows x columns x depth of the tiling that was fastest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPoint:
    """A kernel that reads `bytes` once, launched as one of many in a graph."""

    bytes: int
    us: float
    gb_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReducePoint:
    """A sum over `ranks` GPUs of one host; bus_gb_per_s = 2 (ranks - 1) / ranks x bytes / time."""

    ranks: int
    bytes: int
    way: Literal["nccl", "one-shot", "two-shot"]
    us: float
    bus_gb_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Launches:
    """Microseconds of a kernel that does next to nothing."""

    eager_us: float
    in_graph_us: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement(Sourced):
    """One run of bench/gpu/measure.py; `as_of` is its day."""

    gpu: str
    """Key into `Catalog.gpus`."""
    gpus: int
    product: str
    """As the driver names it."""
    memory_mib: int
    driver: str
    torch: str
    cuda: str
    cudnn: str
    nccl: str
    launches: Launches | None = None
    reads: tuple[ReadPoint, ...] = ()
    matrices: tuple[MatrixPoint, ...] = ()
    all_reduce: tuple[AllReducePoint, ...] = ()
    decode: tuple[DecodePoint, ...] = ()
    prefill: tuple[PrefillPoint, ...] = ()
    experts: tuple[ExpertPoint, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionFactors:
    """Shares of the datasheet that whole models reach, and what each layer costs beyond."""

    weights_share: float
    """Of the memory bandwidth, reading weights in decode."""
    decode_layer_us: float
    """Launches, norms, rotation and the like of one layer."""
    matrix_share: float
    """Of the dense peak at this precision."""
    prefill_layer_us: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduceFactors:
    """us = latency + 2 (ranks - 1) / ranks x bytes / rate, between GPUs of one host."""

    evidence: Literal["measured", "derived"]
    latency_us: float
    """Of NCCL."""
    bus_gb_per_s: float
    kernel_latency_us: float
    """Of one-shot and two-shot kernels over peer memory, as engines bring them for messages up to some MiB."""
    kernel_gb_per_s: float

    def us(self, *, size: float, ranks: int) -> float:
        """Microseconds of one all-reduce of `size` bytes by NCCL; 0 for one rank."""
        if ranks == 1:
            return 0.0
        return self.latency_us + 2 * (ranks - 1) / ranks * size / self.bus_gb_per_s / 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFactors(Sourced):
    """What predicts a GPU's decode steps and prefills."""

    name: str
    evidence: Literal["measured", "derived"]
    """`derived`: from another GPU's; nobody measured this one."""
    band_low: float
    band_high: float
    """The true time lies between these multiples of a predicted one: seen where measured, judged where derived."""
    kv_share: float
    """Of the memory bandwidth, reading a bf16 KV cache in decode."""
    attention_share: float
    """Of the dense bf16 peak, in prefill."""
    bf16: PrecisionFactors
    fp8: PrecisionFactors | None = None
    all_reduce: AllReduceFactors | None = None

    def at(self, precision: Precision) -> PrecisionFactors:
        """The factors at a precision; bf16's where the hardware has no FP8 units (weights alone are FP8 then)."""
        return self.fp8 if precision == "fp8" and self.fp8 is not None else self.bf16

    def _matrix_ms(self, gpu: Gpu, precision: Precision, tflop: float) -> float:
        fp8 = precision == "fp8" and self.fp8 is not None
        peak = (gpu.fp8_tflops if fp8 else None) or gpu.bf16_tflops
        return tflop / (peak * self.at(precision).matrix_share) * 1e3

    def decode_ms(
        self, gpu: Gpu, *, precision: Precision, weights_gb: float, matrix_tflop: float, kv_gb: float, layers: float
    ) -> float:
        """Milliseconds of a decode step on one GPU, without communication.

        The matrices take as long as reading or as computing them, whichever is more; the cache and each layer's
        small kernels come on top.

        Args:
            gpu: the datasheet that the shares are of.
            precision: of the matrix products.
            weights_gb: decimal GB of weights that the step reads.
            matrix_tflop: 10^12 operations of the step's matrix products.
            kv_gb: decimal GB of KV cache that the step reads.
            layers: layers on this GPU.
        """
        factors = self.at(precision)
        read = weights_gb / (gpu.hbm_gb_per_s * factors.weights_share) * 1e3
        computed = self._matrix_ms(gpu, precision, matrix_tflop)
        cache = kv_gb / (gpu.hbm_gb_per_s * self.kv_share) * 1e3
        return max(read, computed) + cache + layers * factors.decode_layer_us / 1e3

    def prefill_ms(
        self, gpu: Gpu, *, precision: Precision, matrix_tflop: float, attention_tflop: float, layers: float
    ) -> float:
        """Milliseconds of a prefill on one GPU, without communication; operations in 10^12."""
        matrices = self._matrix_ms(gpu, precision, matrix_tflop)
        attention = attention_tflop / (gpu.bf16_tflops * self.attention_share) * 1e3
        return matrices + attention + layers * self.at(precision).prefill_layer_us / 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkFactors(Sourced):
    """All-reduce between nodes: us = latency + 2 (ranks - 1) / ranks x bytes / (line rate x share)."""

    name: str
    evidence: Literal["measured", "derived"]
    latency_us: float
    line_rate_share: float
    band_low: float
    band_high: float


@functools.cache
def measurement(name: str) -> Measurement:
    """One machine's points, such as `h100`, `h200-x2` or `h100-experts`."""
    return build(Measurement, _read(name), f"measurements/{name}.yaml")


@functools.cache
def factors() -> Mapping[str, GpuFactors]:
    """Factors by GPU name; a GPU that nothing is known of is absent."""
    return _table("gpus", GpuFactors)


@functools.cache
def links() -> Mapping[str, LinkFactors]:
    """Factors of networks between nodes: `efa`."""
    return _table("links", LinkFactors)


def _table(section: str, cls: type[T]) -> Mapping[str, T]:
    document = _read("factors")
    return MappingProxyType(
        {
            name: build(cls, {**document["defaults"], "name": name, **entry}, f"factors.yaml: {section}.{name}")
            for name, entry in document[section].items()
        }
    )


def _read(name: str) -> Any:
    with (DIRECTORY / f"{name}.yaml").open(encoding="utf-8") as stream:
        return yaml.load(stream, Loader=_LOADER)  # noqa: S506 - both choices are safe loaders
