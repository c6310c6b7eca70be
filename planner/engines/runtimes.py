"""Writes docs/reference/runtimes.md: what each runtime gives with each engine. `python -m planner.engines.runtimes`.

Every cell is asked of the planner: what a plan holds, or whether it takes an option, and with what words it refuses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from catalog.load import load
from catalog.tools.generated import write_or_check
from planner.engines.matrix import Case, stack_of
from planner.life import plan_drain
from planner.plan import ModelPlan, Plan
from planner.planning import plan
from planner.problems import PlanError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "runtimes.md"

_LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
_DEEPSEEK = "deepseek-ai/DeepSeek-R1-0528"
_NODE = "p5.48xlarge"

COLUMNS: Mapping[str, Case] = {
    "Deployment, vLLM": Case(name="vllm", model=_LLAMA, instance=_NODE, runtime="deployment"),
    "Deployment, SGLang": Case(name="sglang", model=_LLAMA, instance=_NODE, runtime="deployment", engine="sglang"),
    "LeaderWorkerSet, vLLM": Case(
        name="vllm group", model=_DEEPSEEK, instance=_NODE, entry={"layout": {"tensor": 8, "pipeline": 2}}
    ),
    "LeaderWorkerSet, SGLang": Case(
        name="sglang group", model=_DEEPSEEK, instance=_NODE, engine="sglang", entry={"layout": {"tensor": 16}}
    ),
    "RayService, vLLM": Case(name="ray", model=_LLAMA, instance=_NODE, runtime="ray_service"),
}
"""Each runtime with each engine that it runs; Ray Serve LLM runs vLLM alone."""

# What the components declare; tests/serving/test_pod_life.py holds them to it.
_ROLLOUT = {
    "deployment": "a replica at a time, the next once the last is found by who asks it, none beyond those "
    "that serve: no spare GPUs",
    "leader_worker_set": "a group at a time, none beyond those that serve: no spare GPUs",
    "ray_service": "the application in place; another cluster replaces the old one, which goes first: no spare GPUs, "
    "and nothing serves meanwhile",
}
_RESTART = {
    "deployment": "the pod",
    "leader_worker_set": "the whole group, once all its pods have started; a group that waits for nodes is left alone",
    "ray_service": "the replica, by Serve; the head by KubeRay, and with Valkey its replicas stay",
}
_TOGETHER = {
    "deployment": "one pod",
    "leader_worker_set": "required on one rung, one pod a node, near each other (docs/adr/0001)",
    "ray_service": "hosts of a replica like a group's; Ray places the ranks of one",
}
_CLIENTS = {
    "deployment": "router, or a Service below three replicas",
    "leader_worker_set": "router, or a Service below three replicas; leaders alone answer",
    "ray_service": "Ray Serve's proxies, one a worker, behind a Service",
}
_ADAPTERS = {"concurrent": 1, "adapters": [{"name": "a", "source": "acme/a", "revision": "1" * 40, "rank": 16}]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """Something that a stack file may ask for."""

    name: str
    entry: Callable[[Case], Mapping[str, Any]]
    """Keys of the model's entry."""
    sharing: Mapping[str, Any] | None = field(default=None)


def _options(case: Case, **options: Any) -> Mapping[str, Any]:
    return {"engine_options": {"engine": case.engine, **options}}


OPTIONS = (
    Option(
        name="scheduled floors (`autoscaling.floors`)",
        entry=lambda _: {
            "autoscaling": {
                "floors": [{"timezone": "UTC", "start": "0 8 * * *", "end": "0 20 * * *", "replicas": 1}],
            }
        },
    ),
    Option(name="no replica while nobody asks (`replicas.min: 0`)", entry=lambda _: {"replicas": {"min": 0, "max": 2}}),
    Option(name="prompts replayed before it is ready (`warm_prompts`)", entry=lambda _: {"warm_prompts": ["You are"]}),
    Option(name="KV blocks in RAM (`kv_offload`)", entry=lambda _: {"kv_offload": {"cpu_gib": 64}}),
    Option(name="adapters (`engine_options.lora`)", entry=lambda case: _options(case, lora=_ADAPTERS)),
    Option(
        name="speculation with n-grams (`engine_options.speculation`)",
        entry=lambda case: _options(case, speculation={"kind": "ngram"}),
    ),
    Option(name="weights streamed from S3 (`cache.kind: s3`)", entry=lambda _: {"cache": {"kind": "s3"}}),
    Option(
        name="a time slice of a GPU (`pools[].sharing`)",
        entry=lambda case: {"model": "meta-llama/Llama-3.1-8B-Instruct"} if case.model == _LLAMA else {},
        sharing={"kind": "time_slicing", "replicas": 2},
    ),
)


def _plan(case: Case) -> Plan:
    catalog = load()
    settings, region = stack_of(case, catalog)
    return plan(settings, stack="runtimes", region=region, catalog=catalog)


def _answer(case: Case, option: Option) -> str:
    """`yes`, or why not, in the planner's words."""
    asked = replace(case, entry={**case.entry, **option.entry(case)}, sharing=option.sharing)
    try:
        _plan(asked)
    except PlanError as error:
        return f"no: {error.problems[0].message}"
    return "yes"


def _told(model: ModelPlan, section: str, begins: str) -> str:
    """A number that the plan explains: what it says, and its value."""
    for number in model.numbers:
        if number.section == section and number.name.startswith(begins):
            return f"{number.name.removeprefix(begins).lstrip(', ')} {number.value:g} s"
    return "none"


def _drain(found: Plan, model: ModelPlan) -> str:
    pool = found.pool(model.pool)
    spot = plan_drain(replace(pool, rungs=tuple(replace(rung, kind="spot") for rung in pool.rungs)))
    told = (f"{drain.drain_seconds} s of {drain.grace_seconds} s" for drain in (model.drain, spot))
    return "; on spot ".join(told)


def _how_it_drains(model: ModelPlan) -> str:
    for number in model.numbers:
        if number.section == "drain":
            source = next(given.source for given in number.inputs if given.name == "running")
            return source.partition("; ")[0]
    return "not at all"


_OWNERS = {"keda": "KEDA", "ray_serve": "Ray Serve", "none": "nobody"}


def _scaled(model: ModelPlan) -> str:
    names = ", ".join(trigger.name for trigger in model.scaling.triggers) or "requests that run and wait"
    return f"{_OWNERS[model.scaling.owner]}: {names}"


def _key(model: ModelPlan) -> str:
    checks = any(variable.secret is not None for variable in model.container.env)
    return "by the engine" if checks else "by nothing: Ray Serve knows none, the network policy guards it"


FACTS: tuple[tuple[str, Callable[[Plan, ModelPlan], str]], ...] = (
    ("engine", lambda _, model: f"{model.engine} {model.engine_version}"),
    ("a replica is", lambda _, model: f"{model.layout.nodes} pod(s) of {model.layout.gpus_per_node} GPUs"),
    ("pods of a replica", lambda _, model: _TOGETHER[model.runtime]),
    ("startup probe", lambda _, model: _told(model, "probes", "startup")),
    ("readiness probe", lambda _, model: _told(model, "probes", "readiness")),
    ("liveness probe", lambda _, model: _told(model, "probes", "liveness")),
    ("other ranks", lambda _, model: model.why.get("other ranks", "in the same pod")),
    ("what fails is started anew", lambda _, model: _RESTART[model.runtime]),
    ("running requests end by", lambda _, model: _how_it_drains(model)),
    ("time for that", _drain),
    ("a rollout", lambda _, model: _ROLLOUT[model.runtime]),
    ("root file system", lambda _, model: model.why["file system"]),
    ("clients reach", lambda _, model: _CLIENTS[model.runtime]),
    ("API keys are checked", lambda _, model: _key(model)),
    ("replicas are scaled by", lambda _, model: _scaled(model)),
    ("EFA is proved by", lambda _, model: model.efa_gate.mode.replace("_", "-") if model.efa_gate else "not needed"),
)


def page() -> str:
    """The page."""
    plans = {name: _plan(case) for name, case in COLUMNS.items()}
    rows = [
        (name, *(fact(found, found.models[0]) for found in plans.values()))
        for name, fact in FACTS
    ] + [(option.name, *(_answer(case, option) for case in COLUMNS.values())) for option in OPTIONS]  # fmt: skip
    table = "\n".join(
        [
            f"| | {' | '.join(COLUMNS)} |",
            f"|{'---|' * (len(COLUMNS) + 1)}",
            *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
        ]
    )
    return f"""# What each runtime gives

`python -m planner.engines.runtimes` writes this page: every cell is asked of the planner, on {_NODE} with
{_LLAMA.partition("/")[2]} on one node and {_DEEPSEEK.partition("/")[2]} on two. `models[].runtime` chooses; `auto`
takes a Deployment where a replica fits one node and a LeaderWorkerSet where it does not. Probes and drain of a model of
yours, with their reasons: `python -m ops plan --stack prod --explain <model>`.

{table}

Whichever runtime: pods run without a token of the API server (but for the Ray head, whose autoscaler needs one) and
without Service variables, with `RuntimeDefault` seccomp and no capability but `IPC_LOCK` for EFA; replicas prefer other
nodes and zones; one at a time may be drained (the disruption budget counts groups by their leaders); autoscalers move
none to tidy up; nodes pull the engine's image before a replica needs it ([howto](../howto/roll-out-an-image.md)).

Ray ends a replica with its raylet, and what it answers with it. Workers therefore drain their node first (`ray
drain-node`): Serve starts another replica where it can and lets the old one finish. Seen on Ray 2.60 with two replicas
under load: SIGTERM alone lost what ran on the node, the drain lost nothing. Of a replica over several hosts only the
host of its first actor is waited for.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it (`--check`)."""
    return write_or_check(PAGE, page(), "planner.engines.runtimes", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
