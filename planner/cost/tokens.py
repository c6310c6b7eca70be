"""What a million tokens cost: the GPUs' dollars, divided over prefill and decode by the GPU time that each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.cost.load import Load
from planner.plan import Explained, Input, ModelPlan, PoolPlan, RungCostPlan, RungTokenCost, TokenCostPlan

_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What models of one pool share."""

    pool: PoolPlan
    rungs: Mapping[str, RungCostPlan]
    gpus: float
    """GPUs that all models of the pool use at the planned load."""
    nodes: float
    """Nodes that run for them, on average."""


def token_cost(model: ModelPlan, load: Load, shared: Shared, on: Mapping[str, float], all_in: float) -> TokenCostPlan:
    """Dollars a million input and output tokens of one model.

    The model pays for its share of the pool's nodes by GPUs. Prefill's share of the GPU time buys the input tokens,
    the rest the output tokens:

        usd_per_hour = nodes x GPUs of the model / GPUs in use x usd_per_useful_hour of the rung
        $/1M input  = usd_per_hour x prefill_share / (requests/s x 3600 x input tokens) x 1e6
        $/1M output = usd_per_hour x (1 - prefill_share) / (requests/s x 3600 x output tokens) x 1e6

    Args:
        model: the model.
        load: what it serves.
        shared: its pool.
        on: share of the pool's nodes on each rung, over the expected mix.
        all_in: all that bills / GPUs, of the stack.
    """
    nodes = shared.nodes * load.replicas * model.layout.gpus / shared.gpus if shared.gpus else 0.0
    rungs = tuple(
        RungTokenCost(
            rung=rung.name,
            kind=rung.kind,
            share=on[rung.name],
            input_usd_per_million=_input(load, nodes * shared.rungs[rung.name].usd_per_useful_hour),
            output_usd_per_million=_output(load, nodes * shared.rungs[rung.name].usd_per_useful_hour),
        )
        for rung in shared.pool.rungs
        if rung.name in shared.rungs
    )
    blended = sum(on[rung.rung] * shared.rungs[rung.rung].usd_per_useful_hour for rung in rungs)
    return TokenCostPlan(
        model=model.name,
        basis=load.basis,
        requests_per_second=load.requests_per_second,
        replicas=load.replicas,
        prefill_share=load.prefill_share,
        input_usd_per_million=_input(load, nodes * blended),
        output_usd_per_million=_output(load, nodes * blended),
        all_in_factor=all_in,
        rungs=rungs,
        explained=_explained(model, load, nodes, blended, rungs, shared),
    )


def _input(load: Load, usd_per_hour: float) -> float:
    return usd_per_hour * load.prefill_share / (load.requests_per_second * _SECONDS * load.input_tokens) * 1e6


def _output(load: Load, usd_per_hour: float) -> float:
    return usd_per_hour * (1 - load.prefill_share) / (load.requests_per_second * _SECONDS * load.output_tokens) * 1e6


def _explained(
    model: ModelPlan, load: Load, nodes: float, blended: float, rungs: Sequence[RungTokenCost], shared: Shared
) -> tuple[Explained, ...]:
    mix = ", ".join(f"{rung.share:.1%} on {rung.rung}" for rung in rungs if rung.share > 0)
    common = (
        Input(
            name="nodes",
            value=nodes,
            unit="",
            source=f"{load.replicas} replicas of {model.layout.gpus} GPUs, their share of {shared.pool.name}",
        ),
        Input(name="usd", value=blended, unit="$/useful hour of a node", source=f"rungs of the pool: {mix}"),
        Input(
            name="prefill_share",
            value=load.prefill_share,
            unit="of GPU time",
            source=(
                f"{load.prefill_ms:.1f} ms of prefill beside {load.decode_ms:.1f} ms of decode a request, "
                f"{load.batch:.1f} in a step (performance model)"
            ),
        ),
        Input(name="rps", value=load.requests_per_second, unit="requests/s", source=load.source),
    )
    tokens_in = Input(name="input_tokens", value=load.input_tokens, unit="a request", source=load.source)
    tokens_out = Input(name="output_tokens", value=load.output_tokens, unit="a request", source=load.source)
    return (
        Explained(
            section="cost",
            name=f"a million input tokens of {model.name}",
            value=_input(load, nodes * blended),
            unit="$",
            formula="nodes x usd x prefill_share / (rps x 3600 x input_tokens) x 1e6",
            inputs=(*common, tokens_in),
        ),
        Explained(
            section="cost",
            name=f"a million output tokens of {model.name}",
            value=_output(load, nodes * blended),
            unit="$",
            formula="nodes x usd x (1 - prefill_share) / (rps x 3600 x output_tokens) x 1e6",
            inputs=(*common, tokens_out),
        ),
    )
