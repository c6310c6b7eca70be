"""Fits the factors of the catalog to some measured points and says how far off they are on all others.

`python -m bench.gpu.fit` writes catalog/measurements/factors.yaml and the tables in docs/explanation/calibration.md.
Relative least squares: a step of 2 ms and one of 20 ms count alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from catalog import load
from catalog.measurements import (
    DIRECTORY,
    AllReduceFactors,
    AllReducePoint,
    DecodePoint,
    GpuFactors,
    PrecisionFactors,
    PrefillPoint,
    measurement,
)
from catalog.types import Gpu

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "calibration.md"
FITTED_MODELS = ("llama-70b-tp1-slice", "llama-70b-tp8-slice")
"""The 8B as a whole and the tensor parallel pair are never fitted to."""
MEASURED = {"H100": ("h100",), "H200": ("h200", "h200-x2")}
"""GPU -> measurements; the first is fitted to."""
_HIDDEN = {"llama-70b-tp2-slice": 8192}
_RANKS = {"llama-70b-tp2-slice": 2}

KERNEL_BYTES = 8 * 2**20
"""vLLM hands larger messages to NCCL (its custom all-reduce's `max_size`)."""

Row = tuple[Sequence[float], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Miss:
    """A point and what was predicted for it."""

    gpu: str
    what: str
    """`decode` or `prefill`."""
    point: DecodePoint | PrefillPoint
    predicted_ms: float
    fitted: bool

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_ms / self.point.ms - 1


def is_fitted(point: DecodePoint | PrefillPoint) -> bool:
    """Whether a point takes part in the fit: a coarse part of the grid of two models."""
    if point.model not in FITTED_MODELS:
        return False
    if isinstance(point, DecodePoint):
        return point.batch in {1, 8, 32, 128} and point.tokens in {1024, 8192, 32768}
    return point.tokens in {1024, 4096, 16384}


def least_squares(rows: Sequence[Row]) -> list[float]:
    """Coefficients x that minimise the sum of ((features . x) / target - 1)^2, by the normal equations."""
    size = len(rows[0][0])
    table = [[0.0] * (size + 1) for _ in range(size)]
    for features, target in rows:
        scaled = [feature / target for feature in features]
        for i, j in ((i, j) for i in range(size) for j in range(size)):
            table[i][j] += scaled[i] * scaled[j]
        for i in range(size):
            table[i][size] += scaled[i]
    for i in range(size):
        for j in range(size):
            if i != j:
                factor = table[j][i] / table[i][i]
                table[j] = [a - factor * b for a, b in zip(table[j], table[i], strict=True)]
    return [table[i][size] / table[i][i] for i in range(size)]


def _by_precision(bf16: bool, *values: float) -> list[float]:
    """Values in the columns of their precision, zeros in the other's."""
    empty = [0.0] * len(values)
    return [*values, *empty] if bf16 else [*empty, *values]


def fit(name: str, gpu: Gpu) -> GpuFactors:
    """The factors of a GPU from its first measurement, with the band that its other points show."""
    run = measurement(MEASURED[name][0])
    decode = least_squares(
        [
            ([*_by_precision(p.precision == "bf16", p.weights_gb, p.layers), p.kv_gb], p.ms)
            for p in run.decode
            if is_fitted(p)
        ]
    )
    prefill = least_squares(
        [
            ([*_by_precision(p.precision == "bf16", p.matrix_tflop, p.layers), p.attention_tflop], p.ms)
            for p in run.prefill
            if is_fitted(p)
        ]
    )
    peaks = (gpu.bf16_tflops, gpu.fp8_tflops or math.inf)
    pair = [
        PrecisionFactors(
            weights_share=round(1e3 / decode[2 * i] / gpu.hbm_gb_per_s, 3),
            decode_layer_us=round(decode[2 * i + 1] * 1e3, 1),
            matrix_share=round(1e3 / prefill[2 * i] / peaks[i], 3),
            prefill_layer_us=round(prefill[2 * i + 1] * 1e3, 1),
        )
        for i in (0, 1)
    ]
    reduced = [point for stem in MEASURED[name] for point in measurement(stem).all_reduce]
    plain = GpuFactors(
        source=", ".join(f"measurements/{stem}.yaml" for stem in MEASURED[name]) + ", fitted by bench/gpu/fit.py",
        as_of=run.as_of,
        name=name,
        evidence="measured",
        band_low=0,
        band_high=math.inf,
        kv_share=round(1e3 / decode[4] / gpu.hbm_gb_per_s, 3),
        attention_share=round(1e3 / prefill[4] / gpu.bf16_tflops, 3),
        bf16=pair[0],
        fp8=pair[1],
        all_reduce=fit_all_reduce(reduced) if reduced else None,
    )
    ratios = [1 / (1 + miss.error) for miss in misses(plain, gpu) if not miss.fitted]
    values = {field: getattr(plain, field) for field in GpuFactors.__dataclass_fields__}
    return GpuFactors(
        **{**values, "band_low": math.floor(min(ratios) * 100) / 100, "band_high": math.ceil(max(ratios) * 100) / 100}
    )


def fit_all_reduce(points: Iterable[AllReducePoint]) -> AllReduceFactors:
    """Latency and rate of NCCL, and of the faster of the two kernels up to the size at which engines leave them."""
    points = list(points)
    latency, per_byte = least_squares([_all_reduce_row(p) for p in points if p.way == "nccl"])
    quick: dict[tuple[int, int], AllReducePoint] = {}
    for point in points:
        key = (point.ranks, point.bytes)
        if point.way != "nccl" and point.bytes <= KERNEL_BYTES and (key not in quick or point.us < quick[key].us):
            quick[key] = point
    kernel_latency, kernel_per_byte = least_squares([_all_reduce_row(p) for p in quick.values()])
    return AllReduceFactors(
        evidence="measured",
        latency_us=round(latency, 1),
        bus_gb_per_s=round(1 / per_byte / 1e3, 1),
        kernel_latency_us=round(kernel_latency, 1),
        kernel_gb_per_s=round(1 / kernel_per_byte / 1e3, 1),
    )


def _all_reduce_row(point: AllReducePoint) -> Row:
    return [1.0, 2 * (point.ranks - 1) / point.ranks * point.bytes], point.us


def misses(factors: GpuFactors, gpu: Gpu) -> list[Miss]:
    """All end-to-end points of a GPU with their predictions."""
    found: list[Miss] = []
    for stem in MEASURED[factors.name]:
        run = measurement(stem)
        for point in run.decode:
            parameters = point.weights_gb / (2 if point.precision == "bf16" else 1)  # 10^9; FP8 takes a byte
            step = factors.decode_ms(
                gpu,
                precision=point.precision,
                weights_gb=point.weights_gb,
                matrix_tflop=2 * parameters * point.batch / 1e3,
                kv_gb=point.kv_gb,
                layers=point.layers,
            )
            found.append(_miss(factors, "decode", point, step, rows=point.batch))
        for point in run.prefill:
            first = factors.prefill_ms(
                gpu,
                precision=point.precision,
                matrix_tflop=point.matrix_tflop,
                attention_tflop=point.attention_tflop,
                layers=point.layers,
            )
            found.append(_miss(factors, "prefill", point, first, rows=point.batch * point.tokens))
    return found


def _miss(factors: GpuFactors, what: str, point: DecodePoint | PrefillPoint, ms: float, *, rows: int) -> Miss:
    if (ranks := _RANKS.get(point.model, 1)) > 1:
        assert factors.all_reduce is not None
        ms += 2 * point.layers * factors.all_reduce.us(size=rows * _HIDDEN[point.model] * 2, ranks=ranks) / 1e3
    return Miss(gpu=factors.name, what=what, point=point, predicted_ms=ms, fitted=is_fitted(point))


def summary(found: Iterable[Miss]) -> str:
    """Markdown: median and worst miss by GPU, kind, model and precision; fitted points apart."""
    groups: dict[tuple[str, ...], list[Miss]] = {}
    for miss in found:
        use = "fitted" if miss.fitted else "held out"
        groups.setdefault((use, miss.gpu, miss.what, miss.point.model, miss.point.precision), []).append(miss)
    lines = [
        "| | GPU | | model | weights | points | median miss | worst miss | at batch x tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in sorted(groups.items(), key=lambda item: (item[0][0] == "fitted", item[0])):
        worst = max(group, key=lambda miss: abs(miss.error))
        median = statistics.median(abs(miss.error) for miss in group)
        lines.append(
            f"| {' | '.join(key)} | {len(group)} | {median:.1%} | {worst.error:+.1%} "
            f"| {worst.point.batch} x {worst.point.tokens} |"
        )
    return "\n".join(lines)


def worst(found: Iterable[Miss], count: int = 12) -> str:
    """Markdown: the held-out points that are farthest off."""
    lines = ["| GPU | | model | weights | batch x tokens | measured ms | predicted ms | miss |", "|---" * 8 + "|"]
    held_out = sorted((miss for miss in found if not miss.fitted), key=lambda miss: -abs(miss.error))
    for miss in held_out[:count]:
        p = miss.point
        lines.append(
            f"| {miss.gpu} | {miss.what} | {p.model} | {p.precision} | {p.batch} x {p.tokens} "
            f"| {p.ms:.2f} | {miss.predicted_ms:.2f} | {miss.error:+.1%} |"
        )
    return "\n".join(lines)


def repeated() -> str:
    """One sentence: the same points in another run."""
    first = {(p.model, p.precision, p.batch, p.tokens): p.ms for p in measurement("h100-repeat").decode}
    spread = [
        p.ms / first[key] - 1
        for p in measurement("h100").decode
        if (key := (p.model, p.precision, p.batch, p.tokens)) in first
    ]
    return (
        f"{len(spread)} decode points of the H100 were measured twice, on machines started anew: median difference "
        f"{statistics.median(map(abs, spread)):.1%}, largest {max(spread, key=abs):+.1%}."
    )


def factors_yaml(fitted: Sequence[GpuFactors]) -> str:
    """The file's text: what was fitted, and what is derived from it for GPUs that nobody measured."""
    lines = [
        "# Written by bench/gpu/fit.py; what the fields mean: catalog/measurements.py. `band_*`: the true time as a",
        "# multiple of a predicted one; of `measured` over the points that were not fitted, of `derived` a judgement.",
        "defaults:",
        f"  as_of: {fitted[0].as_of}",
        "gpus:",
    ]
    for factors in fitted:
        reduce = factors.all_reduce or _borrowed(fitted)
        lines += _entry(factors, factors.source, reduce)
    shared = _borrowed(fitted)
    for name, (low, high, fp8, why) in DERIVED.items():
        reduce = _scaled(shared, load().gpus[name].nvlink_gb_per_s / load().gpus["H200"].nvlink_gb_per_s)
        lines += _entry(_mean(fitted, name, low, high, fp8=fp8), why, reduce)
    lines += [
        "links:",
        "  # Not measured: EFA needs two nodes, PCIe a machine with such GPUs. Guesses with wide bands until then.",
        "  efa: {source: judgement, evidence: derived, latency_us: 50, line_rate_share: 0.7, band_low: 0.7,",
        "    band_high: 2.0}",
        "  pcie: {source: judgement; through the host where peers cannot reach each other, evidence: derived,",
        "    latency_us: 25, line_rate_share: 0.45, band_low: 0.7, band_high: 2.0}",
    ]
    return "\n".join(lines) + "\n"


_AMPERE = "mean shares of the measured GPUs; one generation older, kernels without TMA"
_BLACKWELL = "mean shares of the measured GPUs; one generation newer, kernels still being tuned"
DERIVED = {
    "A10G": (0.7, 1.5, False, "mean shares of the measured GPUs; GDDR6 and a power limit that throttles products"),
    "A100-40": (0.7, 1.3, False, _AMPERE),
    "A100-80": (0.7, 1.3, False, _AMPERE),
    "L4": (0.7, 1.8, True, "mean shares of the measured GPUs; 72 W throttle products far below the datasheet"),
    "L40S": (0.7, 1.5, True, "mean shares of the measured GPUs; GDDR6 and a power limit that throttles products"),
    "B200": (0.7, 1.4, True, _BLACKWELL),
    "B300": (0.7, 1.4, True, _BLACKWELL),
    "RTX-PRO-6000": (0.7, 1.5, True, "mean shares of the measured GPUs; GDDR7"),
}
"""GPU -> band, whether it has FP8 units, why."""


def _borrowed(fitted: Sequence[GpuFactors]) -> AllReduceFactors:
    """H100 and H200 have the same 18 NVLinks: the one that was measured stands for the other."""
    known = next(f.all_reduce for f in fitted if f.all_reduce is not None)
    return replace(known, evidence="derived")


def _scaled(known: AllReduceFactors, links: float) -> AllReduceFactors | None:
    """Rates by the bandwidth of the links, latencies alike; None without NVLink."""
    if not links:
        return None
    return AllReduceFactors(
        evidence="derived",
        latency_us=known.latency_us,
        bus_gb_per_s=round(known.bus_gb_per_s * links, 1),
        kernel_latency_us=known.kernel_latency_us,
        kernel_gb_per_s=round(known.kernel_gb_per_s * links, 1),
    )


def _mean(fitted: Sequence[GpuFactors], name: str, low: float, high: float, *, fp8: bool) -> GpuFactors:
    def average(parts: Sequence[PrecisionFactors]) -> PrecisionFactors:
        keys = asdict(parts[0])
        return PrecisionFactors(**{key: round(statistics.mean(getattr(p, key) for p in parts), 3) for key in keys})

    return GpuFactors(
        source="", as_of=fitted[0].as_of, name=name, evidence="derived", band_low=low, band_high=high,
        kv_share=round(statistics.mean(f.kv_share for f in fitted), 3),
        attention_share=round(statistics.mean(f.attention_share for f in fitted), 3),
        bf16=average([f.bf16 for f in fitted]),
        fp8=average([f.fp8 for f in fitted if f.fp8 is not None]) if fp8 else None,
    )  # fmt: skip


def _entry(factors: GpuFactors, source: str, reduce: AllReduceFactors | None) -> list[str]:
    def flow(part: object) -> str:
        return "{" + ", ".join(f"{key}: {value}" for key, value in asdict(part).items()) + "}"  # type: ignore[call-overload]

    lines = [
        f"  {factors.name}:",
        f"    source: {source}",
        f"    evidence: {factors.evidence}",
        f"    band_low: {factors.band_low}",
        f"    band_high: {factors.band_high}",
        f"    kv_share: {factors.kv_share}",
        f"    attention_share: {factors.attention_share}",
        f"    bf16: {flow(factors.bf16)}",
    ]
    if factors.fp8 is not None:
        lines.append(f"    fp8: {flow(factors.fp8)}")
    if reduce is not None:
        lines.append(f"    all_reduce: {flow(reduce)}")
    return lines


def fit_all() -> list[GpuFactors]:
    """Factors of all measured GPUs."""
    gpus = load().gpus
    return [fit(name, gpus[name]) for name in MEASURED]


def tables(fitted: Sequence[GpuFactors]) -> dict[str, str]:
    """Markdown by the name of its place in the document."""
    gpus = load().gpus
    found = [miss for factors in fitted for miss in misses(factors, gpus[factors.name])]
    return {"misses": summary(found), "worst": worst(found), "repeated": repeated()}


def with_tables(text: str, parts: dict[str, str]) -> str:
    """The document with each `<!-- name -->` ... `<!-- end -->` filled anew."""
    for name, part in parts.items():
        mark = f"<!-- {name} -->\n"
        before, rest = text.split(mark)
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}{mark}{part}\n<!-- end -->{after}"
    return text


if __name__ == "__main__":
    results = fit_all()
    (DIRECTORY / "factors.yaml").write_text(factors_yaml(results), encoding="utf-8")
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), tables(results)), encoding="utf-8")
    for table in tables(results).values():
        print(table)
