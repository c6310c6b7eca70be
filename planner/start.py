"""From a pod on a node that is there to its first token, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from catalog.assumptions import assumed
from catalog.types import ModelCard
from planner.engines.request import compiles_deep_gemm
from planner.image_pull import pull_seconds
from planner.inputs import assumption, from_catalog
from planner.plan import Explained, Input, LoadPlan, ShardsPlan, WarmPromptsPlan

SECTION = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStep:
    """One step of a start, in order."""

    name: str
    seconds: float
    formula: str
    inputs: tuple[Input, ...]
    again_seconds: float | None = None
    """Where a later start has it from the cache; None: as long as the first time."""
    again_why: str = ""


def steps_of(
    card: ModelCard, load: LoadPlan, *, gate_seconds: float = 0, shards: ShardsPlan | None = None, kept: bool = False
) -> tuple[StartStep, ...]:
    """All steps of a first start. `kept`: what is compiled outlives the pod."""
    return tuple(_steps(card, load, gate_seconds, shards, kept))


def startup_seconds(steps: tuple[StartStep, ...]) -> int:
    """Of a first start, with nothing in any cache but the weights."""
    return ceil(sum(step.seconds for step in steps))


def _steps(
    card: ModelCard, load: LoadPlan, gate_seconds: float, shards: ShardsPlan | None, kept: bool
) -> Iterator[StartStep]:
    yield StartStep(
        name="image",
        seconds=pull_seconds(),
        formula="image / pull",
        inputs=(assumption("image_gigabytes", "image"), assumption("image_pull_mb_per_s", "pull")),
    )
    if gate_seconds:
        yield StartStep(
            name="check of EFA",
            seconds=gate_seconds,
            formula="planned for the group's size",
            inputs=(Input(name="gate", value=gate_seconds, unit="s", source="planner/efa.py"),),
        )
    yield from _weights(load, shards)
    if compiles_deep_gemm(card):
        yield StartStep(
            name="kernels compiled (DeepGEMM)",
            seconds=assumed("deepgemm_compile_seconds"),
            formula="kernels",
            inputs=(assumption("deepgemm_compile_seconds", "kernels"),),
            again_seconds=assumed("deepgemm_reuse_seconds") if kept else None,
            again_why=assumption("deepgemm_reuse_seconds").source if kept else "",
        )
    yield StartStep(
        name="process, profiling, torch.compile and CUDA graphs",
        seconds=assumed("compile_seconds_base")
        + assumed("compile_seconds_per_10b_active") * card.active_params_billion / 10,
        formula="base + per_10b x active / 10",
        inputs=(
            assumption("compile_seconds_base", "base"),
            assumption("compile_seconds_per_10b_active", "per_10b"),
            from_catalog(card, "active", card.active_params_billion, "billion parameters a token"),
        ),
    )


def _weights(load: LoadPlan, shards: ShardsPlan | None) -> Iterator[StartStep]:
    """A replica's first start reads the checkpoint; shards are written by the engine that has it, or before it."""
    read = Input(name="load", value=load.seconds, unit="s", source="section load, above")
    if shards is not None and shards.init_seconds:
        yield StartStep(
            name="checkpoint into the GPUs, to be written as shards",
            seconds=shards.before_seconds,
            formula="process + weights on every node; an init container's, so probes do not see it",
            inputs=(assumption("compile_seconds_base", "process"), read),
            again_seconds=0,
            again_why=_THERE,
        )
        yield _written(shards)
        yield StartStep(
            name="shards into the GPUs",
            seconds=shards.seconds,
            formula="shards on every node, read and checked, then copied",
            inputs=(Input(name="shards", value=shards.seconds, unit="s", source="section load, above"),),
        )
        return
    yield StartStep(
        name="weights into the GPUs",
        seconds=load.seconds,
        formula="weights on every node; they go on to the GPUs while they arrive",
        inputs=(read,),
        again_seconds=shards.seconds if shards else None,
        again_why="each node reads its ranks' shards alone" if shards else "",
    )
    if shards is not None:
        yield _written(shards)


_THERE = "they are there"


def _written(shards: ShardsPlan) -> StartStep:
    return StartStep(
        name="shards written",
        seconds=shards.write_seconds,
        formula="checkpoint / the slower of file system and all nodes together",
        inputs=(Input(name="checkpoint", value=shards.gigabytes, unit="GB", source="engine_options.load: sharded"),),
        again_seconds=0,
        again_why=_THERE,
    )


def start_numbers(
    steps: tuple[StartStep, ...], *, boot_seconds: float, boot_source: str, prompts: WarmPromptsPlan | None
) -> tuple[Explained, ...]:
    """Each step, and what they come to: cold, with what earlier starts left on the cache, and on a new node."""
    cold = startup_seconds(steps)
    shown = tuple(
        Explained(
            section=SECTION, name=step.name, value=round(step.seconds, 1), unit="s", formula=step.formula,
            inputs=step.inputs,
        )
        for step in steps
    )  # fmt: skip
    sums = tuple(_seconds(step.name, step.seconds) for step in steps)
    ready = Explained(
        section=SECTION,
        name="ready, cold, on a node that is there",
        value=cold,
        unit=f"s ({cold / 60:.1f} minutes) with nothing cached but the weights; probes and time-outs allow twice that "
        "at least",
        formula="sum of the steps above, rounded up",
        inputs=sums,
    )
    return (
        *shown,
        *_prompts(prompts),
        ready,
        *_again(steps),
        Explained(
            section=SECTION,
            name="ready, cold, on a new node",
            value=cold + boot_seconds,
            unit="s",
            formula="boot + ready, cold",
            inputs=(
                Input(name="boot", value=boot_seconds, unit="s", source=boot_source),
                _seconds("ready, cold", cold),
            ),
        ),
    )


def _again(steps: tuple[StartStep, ...]) -> Iterator[Explained]:
    """A later start; nothing where it is not known to be faster."""
    shorter = [step for step in steps if step.again_seconds is not None]
    if not shorter:
        return
    seconds = sum(step.seconds if step.again_seconds is None else step.again_seconds for step in steps)
    yield Explained(
        section=SECTION,
        name="ready again, with what an earlier start left on the cache",
        value=ceil(seconds),
        unit="s; nothing is planned with it",
        formula="the same sum, but for these; what torch.compile's cache saves is not counted (no source)",
        inputs=tuple(
            Input(
                name=step.name,
                value=float(step.again_seconds or 0),
                unit=f"s in place of {step.seconds:.0f}",
                source=step.again_why,
            )
            for step in shorter
        ),
    )


def _prompts(prompts: WarmPromptsPlan | None) -> Iterator[Explained]:
    if prompts is None:
        return
    yield Explained(
        section=SECTION,
        name="system prompts computed",
        value=prompts.limit_seconds,
        unit="s at most, before the pod is ready and beyond the sum below",
        formula="planned limit; what is not done by then is left to the first requests",
        inputs=(Input(name="prompts", value=len(prompts.prompts), unit="", source="models[].warm_prompts"),),
    )


def _seconds(name: str, value: float) -> Input:
    return Input(name=name, value=round(value, 1), unit="s", source="section start, above")
