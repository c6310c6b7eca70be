"""What layers of experts reach, from the measured ones: `python -m bench.gpu.fit_experts` prints two assumptions.

    time = max(weights of the touched experts / (HBM x weights_share),
               2 x parameters x (rows + padding x touched experts) / (peak x matrix_share x moe_matrix_share))
    padding = min(half_rows, 16 + rows of an expert)

An expert's rows fill whole tiles, the last of them in part. Tiles grow with the rows, from a tensor core's least, 16.
Relative least squares over the points of two machines where computing matters, on a grid.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from catalog import load
from catalog.measurements import ExpertPoint, factors, measurement

RUNS = ("h100-experts", "h200-experts")
LEAST_TILE = 16
_SHARES = [round(0.5 + 0.01 * step, 2) for step in range(51)]
_ROWS = range(0, 401, 10)


def predicted_us(point: ExpertPoint, gpu_name: str, share: float, half_rows: float) -> float:
    """Microseconds of a layer of experts by the formula."""
    gpu, at = load().gpus[gpu_name], factors()[gpu_name].at(point.precision)
    expert = 3 * point.hidden * point.intermediate
    peak = ((gpu.fp8_tflops if point.precision == "fp8" else None) or gpu.bf16_tflops) * at.matrix_share * share
    read = point.touched * expert * (1 if point.precision == "fp8" else 2) / (gpu.hbm_gb_per_s * at.weights_share) / 1e3
    rows = point.tokens * point.top_k
    rows += point.touched * min(half_rows, LEAST_TILE + rows / point.touched)
    return max(read, 2 * expert * rows / peak / 1e6)


def points() -> Iterator[tuple[str, ExpertPoint]]:
    """(GPU, point) of all layers with 16 rows an expert and more."""
    for name in RUNS:
        run = measurement(name)
        for point in run.experts:
            if point.tokens * point.top_k >= 16 * point.experts:
                yield run.gpu, point


def fit() -> tuple[float, int]:
    """(moe_matrix_share, moe_half_rows)."""
    known = list(points())

    def loss(pair: tuple[float, int]) -> float:
        return sum((predicted_us(point, gpu, *pair) / point.us - 1) ** 2 for gpu, point in known)

    return min(((share, rows) for share in _SHARES for rows in _ROWS), key=loss)


def misses(share: float, half_rows: float) -> list[float]:
    """Predicted over measured, less one."""
    return [predicted_us(point, gpu, share, half_rows) / point.us - 1 for gpu, point in points()]


if __name__ == "__main__":
    found = fit()
    errors = misses(*found)
    print(f"moe_matrix_share {found[0]}, moe_half_rows {found[1]}")
    print(f"median miss {statistics.median(map(abs, errors)):.1%}, worst {max(errors, key=abs):+.1%}")
