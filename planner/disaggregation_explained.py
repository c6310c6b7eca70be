"""Whether prefill and decode apart pay, in numbers and words: the way of the KV cache, latencies, and the GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from catalog.measurements import links
from planner.cost.nodes import replicas_by_rung
from planner.disaggregation import Handoff, prefill_name
from planner.handoff import EXPERIMENTAL
from planner.inputs import planned
from planner.layout import candidates, fit
from planner.model_performance import lengths_of, replica_for
from planner.performance import capacity
from planner.plan import Explained, Input, LoadPoint, ModelPlan, PerformancePlan, PoolPlan
from planner.problems import Findings

_SECTION = "disaggregation"
_DECISION = "prefill and decode apart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Replicas that do both."""

    gpus: int
    """Of all of them."""
    tensor: int
    requests_per_second: float
    """Of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """GPUs that the same requests need, apart and together."""

    requests_per_second: float
    prefill: int
    decode: int
    """Replicas."""
    apart: int
    together: Together | None
    """None where no replica that does both keeps the objectives."""

    @property
    def pays(self) -> bool:
        """Whether apart they need fewer GPUs."""
        return self.together is None or self.together.gpus > self.apart


def explain_groups(
    models: tuple[ModelPlan, ...], handoffs: Mapping[str, Handoff], pools: Mapping[str, PoolPlan], findings: Findings
) -> tuple[ModelPlan, ...]:
    """The models, groups with what they are to each other; what cannot be is a problem."""
    by_name = {model.name: model for model in models}
    found = dict(by_name)
    for serves, handoff in handoffs.items():
        prefill, decode = by_name[prefill_name(serves)], by_name[serves]
        _check_room(handoff, prefill, decode, pools, findings)
        if any(_speed(model).capacity.requests_per_second <= 0 for model in (prefill, decode)):
            continue  # told already: nothing keeps the objectives
        compared = _compare(handoff, prefill, decode, pools)
        words = _words(handoff, prefill, decode, compared)
        numbers = _numbers(handoff, prefill, decode, compared)
        for model in (prefill, decode):
            found[model.name] = replace(model, why={_DECISION: words, **model.why}, numbers=(*model.numbers, *numbers))
        subject = f"models[{handoff.decode.index}].disaggregated"
        findings.remark(subject, EXPERIMENTAL)
        if compared.together is not None and not compared.pays:
            findings.remark(
                subject,
                f"does not pay for this traffic: together {compared.together.gpus} GPUs keep the same objectives at "
                f"{compared.requests_per_second:.3g} requests/s, apart {compared.apart}",
            )
        layouts = (handoff.prefill.fit.layout, handoff.decode.fit.layout)
        if (
            handoff.decode.model.engine == "sglang"
            and handoff.decode.card.mla is None
            and len({layout.tensor // layout.data for layout in layouts}) > 1
        ):
            findings.remark(subject, "SGLang itself promises no speed where the groups differ in tensor degree")
    return tuple(found[model.name] for model in models)


def _check_room(
    handoff: Handoff, prefill: ModelPlan, decode: ModelPlan, pools: Mapping[str, PoolPlan], findings: Findings
) -> None:
    """Both groups on one pool must find room for their least replicas at once."""
    if prefill.pool != decode.pool:
        return
    pool, both = pools[decode.pool], (prefill, decode)
    wanted = {model.name: model.scaling.min_replicas for model in both}
    placed = replicas_by_rung(pool, both, wanted)
    lacking = [name for name in wanted if sum(placed[name].values()) < wanted[name]]
    if lacking:
        findings.problem(
            (*handoff.decode.path, "disaggregated"),
            f"`{pool.name}` has no room for {' and '.join(f'{wanted[name]} x {name}' for name in wanted)} at once",
            "add nodes to a rung of the pool, give one group a pool of its own, or lower `replicas.min`",
        )


def _compare(handoff: Handoff, prefill: ModelPlan, decode: ModelPlan, pools: Mapping[str, PoolPlan]) -> Compared:
    speeds = [_speed(prefill), _speed(decode)]
    rate = speeds[1].requests_per_second or max(speed.capacity.requests_per_second for speed in speeds)
    replicas = [math.ceil(rate / speed.capacity.requests_per_second - 1e-9) for speed in speeds]
    best = _best_together(handoff, pools[decode.pool], rate)
    return Compared(
        requests_per_second=rate,
        prefill=replicas[0],
        decode=replicas[1],
        apart=replicas[0] * prefill.layout.gpus + replicas[1] * decode.layout.gpus,
        together=best,
    )


def _best_together(handoff: Handoff, pool: PoolPlan, rate: float) -> Together | None:
    """The fewest GPUs whose replicas do both, over all layouts within a node of the decode group's pool."""
    sketch = handoff.decode
    prompts, answers, cached = lengths_of(sketch)
    found: list[Together] = []
    for layout in candidates(sketch.card, sketch.facts.node(), sketch.model.engine):
        fitted = fit(sketch.card, sketch.facts.node(), sketch.serving, layout)
        if fitted.layout.nodes > 1 or fitted.memory.max_sequences < 1:
            continue
        most = capacity(
            replica_for(replace(sketch, fit=fitted), pool),
            input=prompts,
            output=answers,
            cached_share=cached,
            ttft_p99_ms=handoff.ttft_objective_ms,
            tpot_p99_ms=sketch.model.objectives.tpot_p99_ms,
        ).requests_per_second
        if most > 0:
            gpus = math.ceil(rate / most) * fitted.layout.gpus
            found.append(Together(gpus=gpus, tensor=fitted.layout.tensor, requests_per_second=most))
    return min(found, key=lambda one: (one.gpus, one.tensor), default=None)


def _speed(model: ModelPlan) -> PerformancePlan:
    assert model.performance is not None  # noqa: S101 - both groups serve
    return model.performance


def _at(model: ModelPlan) -> LoadPoint:
    speed = _speed(model)
    return speed.at_traffic or speed.capacity


def _ttft_p99(handoff: Handoff, prefill: ModelPlan, decode: ModelPlan) -> float:
    return (
        _at(prefill).ttft_ms.p99 + handoff.transfer_ms(handoff.prompt_p99) + _at(decode).ttft_ms.p99
    )  # fmt: skip


def _words(handoff: Handoff, prefill: ModelPlan, decode: ModelPlan, compared: Compared) -> str:
    """The decision in a sentence."""

    def group(model: ModelPlan, replicas: int, role: str) -> str:
        rate = _speed(model).capacity.requests_per_second
        return f"{replicas} x {model.layout.gpus} GPUs of {role} ({rate:.3g} requests/s each)"

    given = "" if _speed(decode).requests_per_second is not None else ", no traffic being given"
    together = "no replica that does both keeps the objectives"
    if compared.together is not None:
        both = compared.together
        together = f"together {both.gpus} (tensor {both.tensor}, {both.requests_per_second:.3g}/s a replica)"
    together += f": it {'pays' if compared.pays else 'does not pay'}"
    return (
        f"{group(prefill, compared.prefill, 'prefill')} and {group(decode, compared.decode, 'decode')} for "
        f"{compared.requests_per_second:.3g}/s{given}: {compared.apart} GPUs apart, {together}; the KV cache of a long "
        f"prompt ({handoff.prompt_p99:,.0f} tokens) takes {handoff.transfer_ms(handoff.prompt_p99):.0f} ms over EFA; "
        f"TTFT p99 {_ttft_p99(handoff, prefill, decode):,.0f} ms, TPOT p99 {_at(decode).tpot_ms.p99:.1f} ms"
    )


def _numbers(handoff: Handoff, prefill: ModelPlan, decode: ModelPlan, compared: Compared) -> tuple[Explained, ...]:
    known, layout = links()["efa"], decode.layout
    prompt = Input(name="tokens", value=round(handoff.prompt_p99), unit="tokens, p99", source="section performance")
    bytes_input = planned("bytes", handoff.bytes_per_token, "bytes a token", _SECTION)
    transfer = handoff.transfer_ms(handoff.prompt_p99)
    where = "at the traffic" if _speed(decode).at_traffic else "at capacity"

    def latency(model: ModelPlan, name: str) -> Input:
        return Input(
            name=name, value=round(_at(model).ttft_ms.p99, 1), unit="ms", source=f"performance of {model.name}"
        )

    return (
        Explained(
            section=_SECTION,
            name="KV cache that goes over",
            value=handoff.bytes_per_token,
            unit="bytes a token",
            formula="bytes on a GPU x ranks that hold a sequence (each reads its part, copies included)",
            inputs=(
                planned("bytes on a GPU", decode.memory.kv_bytes_per_token, "bytes a token", "memory"),
                planned("ranks", layout.tensor // layout.data, "tensor / data", "layout"),
            ),
        ),
        Explained(
            section=_SECTION,
            name="transfer of a long prompt",
            value=transfer,
            unit="ms, alone on the network",
            formula="latency + tokens x bytes x 8 / (network x line_rate_share)",
            inputs=(
                prompt,
                bytes_input,
                Input(
                    name="network",
                    value=handoff.gbps,
                    unit="Gbit/s of the pod with less",
                    source="catalog/instances.yaml, the pod's share of its node by GPUs",
                ),
                Input(name="line_rate_share", value=known.line_rate_share, unit="", source=_source()),
                Input(name="latency", value=known.latency_us, unit="us", source=_source()),
            ),
        ),
        Explained(
            section=_SECTION,
            name=f"TTFT {where}, p99, at most",
            value=_ttft_p99(handoff, prefill, decode),
            unit="ms",
            formula="prefill + transfer + decode (each at its own p99)",
            inputs=(
                latency(prefill, "prefill"),
                planned("transfer", round(transfer, 2), "ms", _SECTION),
                latency(decode, "decode"),
            ),
        ),
        Explained(
            section=_SECTION,
            name="GPUs apart",
            value=compared.apart,
            unit=f"GPUs for {compared.requests_per_second:.3g} requests/s",
            formula="sum over both groups of replicas (rate / requests a replica serves, rounded up) x GPUs",
            inputs=tuple(
                part
                for model, count in ((prefill, compared.prefill), (decode, compared.decode))
                for part in (
                    Input(
                        name=f"replicas of {model.name}",
                        value=count,
                        unit="",
                        source=f"{_speed(model).capacity.requests_per_second:.3g} requests/s each, section performance",
                    ),
                    planned(f"GPUs of {model.name}", model.layout.gpus, "", "layout"),
                )
            ),
        ),
        *_together(compared),
    )


def _together(compared: Compared) -> tuple[Explained, ...]:
    both = compared.together
    if both is None:
        return ()
    rates = f"performance model, tensor {both.tensor}: of all layouts within a node the one with the fewest GPUs"
    return (
        Explained(
            section=_SECTION,
            name="GPUs together",
            value=both.gpus,
            unit="GPUs for the same",
            formula="rate / rate of a replica that does both, rounded up, x tensor",
            inputs=(
                Input(name="rate", value=round(compared.requests_per_second, 3), unit="requests/s", source="as above"),
                Input(
                    name="rate of a replica that does both",
                    value=round(both.requests_per_second, 3),
                    unit="requests/s within the whole objectives",
                    source=rates,
                ),
                Input(name="tensor", value=both.tensor, unit="GPUs a replica", source=rates),
            ),
        ),
    )


def _source() -> str:
    known = links()["efa"]
    return f"measurements/factors.yaml, links.efa ({known.evidence}: {known.source})"
