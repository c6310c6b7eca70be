"""The measured points and the factors fitted to some of them: the others must come out of the factors."""

from __future__ import annotations

import math
import statistics

import pytest

from bench.gpu import fit
from catalog import load
from catalog.measurements import DIRECTORY, factors, links, measurement


def held_out(gpu: str, what: str) -> list[fit.Miss]:
    found = fit.misses(factors()[gpu], load().gpus[gpu])
    return [miss for miss in found if miss.what == what and not miss.fitted]


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_decode_steps_that_were_not_fitted_are_predicted(gpu: str) -> None:
    errors = [abs(miss.error) for miss in held_out(gpu, "decode")]
    assert len(errors) > 100
    assert statistics.median(errors) <= 0.15
    assert max(errors) <= 0.30


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_prefills_that_were_not_fitted_are_predicted(gpu: str) -> None:
    errors = [abs(miss.error) for miss in held_out(gpu, "prefill")]
    assert len(errors) > 15
    assert statistics.median(errors) <= 0.20


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_a_whole_model_that_was_never_fitted_is_predicted(gpu: str) -> None:
    errors = [abs(miss.error) for miss in held_out(gpu, "decode") if miss.point.model == "llama-8b"]
    assert len(errors) > 40
    assert statistics.median(errors) <= 0.05


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_the_band_holds_every_point_that_was_not_fitted(gpu: str) -> None:
    known = factors()[gpu]
    for miss in held_out(gpu, "decode") + held_out(gpu, "prefill"):
        assert known.band_low <= miss.point.ms / miss.predicted_ms <= known.band_high, miss


def test_factors_and_tables_are_those_of_the_points() -> None:
    fitted = fit.fit_all()
    assert fit.factors_yaml(fitted) == (DIRECTORY / "factors.yaml").read_text(encoding="utf-8")
    text = fit.DOCUMENT.read_text(encoding="utf-8")
    assert fit.with_tables(text, fit.tables(fitted)) == text


def test_factors_are_shares_of_what_the_hardware_has() -> None:
    gpus = load().gpus
    for name, known in factors().items():
        shares = [known.kv_share, known.attention_share]
        for part in filter(None, (known.bf16, known.fp8)):
            shares += [part.weights_share, part.matrix_share]
            assert part.decode_layer_us > 0
            assert part.prefill_layer_us > 0
        assert all(0.2 < share < 1 for share in shares), name
        assert known.band_low < 1 < known.band_high
        assert (known.fp8 is not None) == gpus[name].fp8_hardware
    assert factors().keys() == gpus.keys()
    assert links()["efa"].evidence == "derived"


@pytest.mark.parametrize("name", ["h100", "h200"])
def test_no_measured_rate_is_beyond_the_datasheet(name: str) -> None:
    run = measurement(name)
    gpu = load().gpus[run.gpu]
    assert max(point.gb_per_s for point in run.reads) < gpu.hbm_gb_per_s
    peaks = {"bf16": gpu.bf16_tflops, "fp8": gpu.fp8_tflops or math.nan}
    assert all(point.tflops < peaks[point.precision] for point in run.matrices)
    moved = [(p.weights_gb + p.kv_gb) / p.ms * 1e3 for p in run.decode]
    assert max(moved) < gpu.hbm_gb_per_s


def test_the_grid_covers_what_is_served() -> None:
    for name in ("h100", "h200"):
        points = measurement(name).decode
        assert {1, 8, 32, 128} <= {p.batch for p in points if p.model == "llama-8b"}
        assert {1024, 32768} <= {p.tokens for p in points if p.model == "llama-8b"}
        assert {"bf16", "fp8"} == {p.precision for p in points}


def test_least_squares_finds_the_coefficients_of_exact_data() -> None:
    rows = [([x, y], 3 * x + 0.5 * y) for x, y in ((1.0, 2.0), (4.0, 1.0), (2.0, 9.0))]
    assert fit.least_squares(rows) == pytest.approx([3, 0.5])
