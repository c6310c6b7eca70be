"""A model's numbers with their formulas: what `plan --explain` prints of layout, memory, load, start and scaling."""

from __future__ import annotations

from dataclasses import dataclass

from planner.drafts import Draft
from planner.inputs import assumption
from planner.load_explained import load_numbers
from planner.memory import Shards
from planner.memory_explained import MemoryQuestion
from planner.memory_explained import memory_numbers as explained_memory
from planner.plan import (
    CachePlan,
    Explained,
    Input,
    MemoryBudget,
    PoolPlan,
    ScalingPlan,
    WarmPromptsPlan,
    WeightsPlan,
)
from planner.scale_up import Step
from planner.start import StartStep, start_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What was decided about one model, and its numbers follow from."""

    sketch: Draft
    pool: PoolPlan
    cache: CachePlan
    weights: WeightsPlan
    steps: tuple[StartStep, ...]
    warm_prompts: WarmPromptsPlan | None
    scaling: ScalingPlan
    step: Step
    knee: int
    """Most sequences within the objective."""
    mean_tokens: int
    max_running: int


def model_numbers(sized: Sized) -> tuple[Explained, ...]:
    """All of them, in the order that they follow from each other."""
    return (
        *_layout(sized),
        *memory_numbers(sized.sketch, sized.sketch.fit.memory),
        *_concurrency(sized),
        *load_numbers(sized.sketch, sized.pool, sized.cache, sized.weights),
        *_start(sized),
        sized.step.number,
    )


def _setting(sized: Sized, key: str, name: str, value: float, unit: str) -> Input:
    where = f"models[{sized.sketch.index}].{key} in the stack file, or its default"
    return Input(name=name, value=value, unit=unit, source=where)


def _planned(name: str, value: float, unit: str, section: str) -> Input:
    return Input(name=name, value=value, unit=unit, source=f"section {section}, above")


def _layout(sized: Sized) -> tuple[Explained, ...]:
    layout = sized.sketch.fit.layout
    auto = sized.sketch.model.layout == "auto"
    rule = "smallest layout whose cache holds several full sequences" if auto else "given in the stack file"
    degrees = tuple(
        Input(name=name, value=value, unit="", source=rule)
        for name, value in (("tensor", layout.tensor), ("pipeline", layout.pipeline), ("data", layout.data))
    )
    return (
        Explained(
            section="layout",
            name="GPUs of a replica",
            value=layout.gpus,
            unit=f"{sized.pool.hardware.gpu}, {layout.gpus_per_node} on each of {layout.nodes} node(s)",
            formula="tensor x pipeline" if layout.gpus == layout.tensor * layout.pipeline else "nodes x GPUs a node",
            inputs=(
                *degrees,
                Input(name="nodes", value=layout.nodes, unit="", source=rule),
                Input(name="GPUs a node", value=layout.gpus_per_node, unit="", source=rule),
            ),
        ),
    )


def memory_numbers(sketch: Draft, memory: MemoryBudget) -> tuple[Explained, ...]:
    """What fills one GPU."""
    layout = sketch.fit.layout
    asked = MemoryQuestion(
        card=sketch.card,
        gpu=sketch.facts.gpu,
        serving=sketch.serving,
        shards=Shards(
            tensor=layout.tensor,
            pipeline=layout.pipeline,
            data=layout.data,
            expert=layout.expert,
            nodes=layout.nodes,
        ),
        context_source=f"models[{sketch.index}].context_tokens in the stack file, or its default",
    )
    return explained_memory(asked, memory)


def _concurrency(sized: Sized) -> tuple[Explained, ...]:
    objectives = sized.sketch.model.objectives
    knee = Explained(
        section="concurrency",
        name="sequences within the objective",
        value=sized.knee,
        unit="a replica",
        formula="running of `requests a replica serves` (section performance, below), rounded down: the mean number "
        "at the largest rate whose p99 of TTFT and TPOT keep the objectives",
        inputs=(
            _setting(sized, "objectives.ttft_p99_ms", "ttft", objectives.ttft_p99_ms, "ms"),
            _setting(sized, "objectives.tpot_p99_ms", "tpot", objectives.tpot_p99_ms, "ms a token"),
        ),
    )
    running = Explained(
        section="concurrency",
        name="sequences that the engine may run",
        value=sized.max_running,
        unit="a replica",
        formula="1.3 x tokens / mean_tokens, limited by the engine, rounded down to a multiple of 8",
        inputs=(
            _planned("tokens", sized.sketch.fit.memory.kv_tokens, "tokens", "memory"),
            Input(
                name="mean_tokens",
                value=sized.mean_tokens,
                unit="tokens",
                source=f"models[{sized.sketch.index}].traffic: prompt + answer x (1 + cv^2) / 2, since long answers "
                "are met running more often"
                if sized.sketch.model.traffic
                else "context_tokens x mean_sequence_share, " + assumption("mean_sequence_share").source,
            ),
        ),
    )
    target = Explained(
        section="concurrency",
        name="requests a replica that scaling aims at",
        value=sized.scaling.target_concurrency,
        unit="requests",
        formula="knee x knee_share, unless the stack file gives it",
        inputs=(_planned("knee", sized.knee, "sequences", "concurrency"), assumption("knee_share")),
    )
    return knee, running, target


def _start(sized: Sized) -> tuple[Explained, ...]:
    boot = "boot_seconds_eight_gpu" if sized.pool.gpus_per_node >= 8 else "boot_seconds_single_gpu"
    return start_numbers(
        sized.steps,
        boot_seconds=max(rung.boot_seconds for rung in sized.pool.rungs),
        boot_source=assumption(boot).source,
        prompts=sized.warm_prompts,
    )
