"""Each number of the performance with its formula, inputs and sources: what `plan --explain` prints of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from catalog.assumptions import assumptions
from catalog.measurements import factors
from planner.drafts import Draft
from planner.inputs import assumption, planned
from planner.model_performance import Predicted
from planner.performance import Replica
from planner.performance.queueing import Curve
from planner.plan import Explained, Input, LoadPoint

_PAGE = "docs/explanation/performance.md"


def performance_numbers(sketch: Draft, predicted: Predicted) -> tuple[Explained, ...]:
    """Floors, capacity, latencies and throughput, and the replicas that the traffic needs."""
    plan = predicted.plan
    number = _numbers_of("performance")
    found = [_step(predicted, number)] if sketch.role != "prefill" else []
    found += [_prefill(sketch, predicted, number)] if sketch.role != "decode" else []
    objectives = tuple(
        Input(name=name, value=value, unit="ms", source=_promised(sketch))
        for name, value in (
            ("ttft", sketch.model.objectives.ttft_p99_ms),
            ("tpot", sketch.model.objectives.tpot_p99_ms),
        )
    )
    found.append(
        number(
            "requests a replica serves",
            plan.capacity.requests_per_second,
            f"requests/s within the objectives, limited by {plan.limited_by}",
            "largest rate = running / (output x step + prefill) whose p99 keep ttft and tpot, by halving",
            *objectives,
            *_lengths(sketch, predicted),
            Input(
                name="running", value=round(plan.capacity.concurrency, 1), unit="requests", source=f"Little, {_PAGE}"
            ),
            Input(name="step", value=round(plan.capacity.tpot_ms.p50, 2), unit="ms", source="TPOT (p50), below"),
        )
    )
    at, where = (plan.at_traffic, "at the traffic") if plan.at_traffic else (plan.capacity, "at capacity")
    rate = Input(
        name="rate",
        value=round(at.requests_per_second, 3),
        unit="requests/s a replica",
        source=f"models[{sketch.index}].traffic over the replicas" if plan.at_traffic else "requests a replica serves",
    )
    running = Input(
        name="running",
        value=round(at.concurrency, 1),
        unit="requests",
        source="rate x (output x TPOT + prefill), Little",
    )
    found += _latencies(predicted, at, where, number, rate, running)
    found.append(
        number(
            f"output tokens {where}",
            at.output_tokens_per_second,
            "tokens/s a replica",
            "rate x output",
            rate,
            _lengths(sketch, predicted)[1],
        )
    )
    if plan.replicas_needed is not None and plan.requests_per_second:
        found.append(
            number(
                "replicas for the traffic",
                plan.replicas_needed,
                "replicas",
                "traffic / requests a replica serves, rounded up",
                Input(
                    name="traffic",
                    value=plan.requests_per_second,
                    unit="requests/s",
                    source=f"models[{sketch.index}].traffic.requests_per_second",
                ),
                planned("requests a replica serves", plan.capacity.requests_per_second, "requests/s", "performance"),
            )
        )
    known = factors()[predicted.replica.gpu.name]
    band = (
        Input(name="GPU", value=f"{known.band_low} to {known.band_high}", unit="of a time", source=known.source),
        assumption("engine_band_low_moe" if predicted.replica.card.moe else "engine_band_low", "engine_band_low"),
        assumption("engine_band_high"),
    )
    for name, value, formula in (
        ("true throughput at least", plan.band.low, "smaller of engine_band_low and 1 / GPU"),
        ("true throughput at most", plan.band.high, "larger of engine_band_high and 1 / GPU"),
    ):
        found.append(number(name, value, "of a predicted one", formula, *band))
    return tuple(found)


def _promised(sketch: Draft) -> str:
    whole = f"models[{sketch.index}].objectives, or its default"
    return whole if sketch.role is None else f"what is this group's of {whole} (section disaggregation)"


Number = Callable[..., Explained]


def _numbers_of(section: str) -> Number:
    def number(name: str, value: float, unit: str, formula: str, *inputs: Input) -> Explained:
        return Explained(section=section, name=name, value=value, unit=unit, formula=formula, inputs=inputs)

    return number


def _latencies(predicted: Predicted, at: LoadPoint, where: str, number: Number, *load: Input) -> list[Explained]:
    """TTFT and TPOT with the parts that they are the sum of; none where no rate keeps the objectives."""
    if not at.requests_per_second:
        return []
    asked = predicted.workload
    curve = Curve(predicted.replica, asked.input, asked.output, asked.cached_share, prefilled=asked.prefilled)
    waits = curve.waits(at.requests_per_second)
    source = f"queueing model, {_PAGE}"

    def ms(name: str, value: float) -> Input:
        return Input(name=name, value=round(value, 2), unit="ms", source=source)

    others = (ms("prompts", waits.prompts), ms("room", waits.room))
    more = (
        ms("prompts_more", waits.prompts_more),
        ms("room_more", waits.room_more),
        ms("own_more", waits.own_more),
        ms("flight_more", waits.flight_more),
    )
    flight = ms("flight", waits.flight)
    return [
        number(
            f"TTFT {where}, p50",
            at.ttft_ms.p50,
            "ms",
            "flight (rest of the step under way) + own (prefill of the median prompt) + 0.7 x (prompts (those before "
            "it, M/G/1) + room (until batch and cache have some))",
            *load,
            flight,
            ms("own", waits.own_p50),
            *others,
        ),
        number(
            f"TTFT {where}, p99",
            at.ttft_ms.p99,
            "ms",
            "flight + own (prefill of the mean prompt) + prompts + room + what each lies above its mean at p99, joined "
            "as (prompts_more^1.5 + room_more^1.5 + own_more^1.5 + flight_more^1.5)^(1 / 1.5)",
            *load,
            flight,
            ms("own", waits.own),
            *others,
            *more,
        ),
        number(
            f"TPOT {where}, p50",
            at.tpot_ms.p50,
            "ms",
            "step of those running, with the prefills that share it",
            *load,
            ms("step", waits.step),
        ),
        number(
            f"TPOT {where}, p99",
            at.tpot_ms.p99,
            "ms",
            "step + root of (crowd^2 + burst^2): more that run at once, and more prefills between its tokens, at p99",
            *load,
            ms("step", waits.step),
            ms("crowd", waits.crowd),
            ms("burst", waits.burst),
        ),
    ]


def _lengths(sketch: Draft, predicted: Predicted) -> tuple[Input, Input, Input]:
    plan = predicted.plan
    given = f"models[{sketch.index}].traffic"
    sources = [
        given if plan.lengths_given else f"assumptions.yaml ({found.evidence}): {found.source}"
        for found in (assumptions()["input_tokens_mean"], assumptions()["output_tokens_mean"])
    ]
    return (
        Input(name="input", value=round(plan.input_tokens.mean), unit="tokens, mean", source=sources[0]),
        Input(name="output", value=round(plan.output_tokens.mean), unit="tokens, mean", source=sources[1]),
        Input(name="cached", value=plan.cached_share, unit="share of input", source=f"{given}.cached_share, or 0"),
    )


def _step(predicted: Predicted, number: Number) -> Explained:
    replica = predicted.replica
    parts = replica.costs.decode_parts(1, predicted.workload.input.mean + predicted.workload.output.mean / 2)
    words = _words(replica, parts)
    return number(
        "TPOT of one request alone",
        predicted.plan.floor_tpot_ms,
        "ms: no load is served faster",
        " + ".join(parts),
        *(Input(name=name, value=round(ms, 3), unit="ms", source=words[name]) for name, ms in parts.items()),
    )


def _words(replica: Replica, parts: Mapping[str, float]) -> dict[str, str]:
    """Each part of a decode step with the numbers that made it and their sources."""
    gpu, known, costs = replica.gpu, factors()[replica.gpu.name], replica.costs
    at = known.at(replica.precision)
    factor = f"factors of {known.name}, {known.evidence}: {known.source}"
    rate = f"GB of a GPU at {gpu.hbm_gb_per_s:g} GB/s"
    layers, us = costs.layers * costs.stages, costs.decode_layers_ms * 1e3 / costs.layers
    counted = " (moe_layer_us, mla_layer_us of assumptions.yaml in it)" if us > at.decode_layer_us else ""

    def read(name: str, share: float) -> str:
        gigabytes = parts.get(name, 0.0) / costs.stages * gpu.hbm_gb_per_s * share / 1e3
        return f"{gigabytes:.3g} {rate} x {share}; {factor}"

    return {
        "matrices": read("matrices", at.weights_share),
        "experts": f"those that one token touches, {read('experts', at.weights_share)}",
        "cache": read("cache", known.kv_share),
        "layers": f"{layers:g} layers x {us:.1f} us{counted}; {factor}",
        "messages": f"sums over {replica.layout.tensor} ranks on {replica.layout.nodes} node(s) in {layers:g} layers: "
        "latency + bytes / rate of each, factors.yaml",
        "engine": f"{replica.engine}_step_ms + engine_sequence_us, {assumption(f'{replica.engine}_step_ms').source}",
    }


def _prefill(sketch: Draft, predicted: Predicted, number: Number) -> Explained:
    replica, known = predicted.replica, factors()[predicted.replica.gpu.name]
    at = known.at(replica.precision)
    asked = predicted.workload
    fresh = max(1.0, asked.input.p99 * (1 - asked.cached_share))
    parts = replica.costs.prefill_parts(fresh, asked.input.p99 * asked.cached_share)
    peak = (replica.gpu.fp8_tflops if replica.precision == "fp8" and known.fp8 else None) or replica.gpu.bf16_tflops
    return number(
        "TTFT of a long prompt alone",
        predicted.plan.floor_ttft_ms,
        "ms: no load is served faster",
        " + ".join(parts) + ", of all chunks; matrices = 2 x parameters x tokens / (ranks x peak x matrix_share), or "
        "reading the weights where that takes longer",
        *(Input(name=name, value=round(ms, 2), unit="ms", source=f"one step, {_PAGE}") for name, ms in parts.items()),
        Input(
            name="tokens",
            value=round(predicted.plan.input_tokens.p99 * (1 - predicted.plan.cached_share)),
            unit="tokens, p99 and not cached",
            source=_lengths(sketch, predicted)[0].source,
        ),
        Input(
            name="parameters",
            value=replica.card.active_params_billion,
            unit="billion active",
            source=f"{replica.card.source}, {replica.card.as_of}",
        ),
        planned("ranks", replica.layout.tensor * replica.layout.pipeline, "", "layout"),
        Input(name="peak", value=peak, unit=f"TFLOP/s {replica.precision}", source=f"{replica.gpu.source}, gpus.yaml"),
        Input(name="matrix_share", value=at.matrix_share, unit="", source=f"{known.evidence}: {known.source}"),
        Input(name="chunk", value=replica.costs.chunk, unit="tokens a step", source="engine's default for the GPU"),
    )
