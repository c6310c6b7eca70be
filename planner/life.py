"""The life of a pod: when it counts as started, as ready and as alive, and how it goes away."""

from __future__ import annotations

from dataclasses import dataclass, replace

from catalog.assumptions import assumed
from catalog.types import Engine
from planner.engines.lines import worker_line
from planner.engines.request import EngineRequest
from planner.image_pull import pull_seconds
from planner.inputs import assumption, planned
from planner.patience import start_limit_seconds
from planner.plan import ContainerPlan, DrainPlan, Explained, Input, PoolPlan, ProbePlan
from settings.serving import Image

_PRE_STOP_SECONDS = 15
"""Endpoints are removed at the same time as SIGTERM is sent: without a pause, requests arrive at a closing server."""
_DRAIN_SECONDS = 300
_END_SECONDS = 10
"""For an engine that has drained to end."""
_SPOT_RESERVE_SECONDS = 5
"""Between EC2's notice and the API server's eviction."""

_STARTUP_PERIOD_SECONDS = 10
_READINESS_PERIOD_SECONDS, _READINESS_FAILURES, _READINESS_TIMEOUT_SECONDS = 5, 3, 5
_READINESS_SUCCESSES = 2
_LIVENESS_PERIOD_SECONDS, _LIVENESS_FAILURES = 10, 6

_DRAINS = {
    "flag": "--shutdown-timeout: without it SIGTERM aborts what runs",
    "signal": "the engine waits for what runs, without a limit of its own, and answers new requests 503",
    "proxy": "graceful_shutdown_timeout_s: the node is drained before it ends, and Serve lets its replica finish",
}


def plan_drain(pool: PoolPlan) -> DrainPlan:
    """How pods of a pool go away. On spot everything must fit the two-minute notice."""
    drain = _DRAIN_SECONDS
    if _has_spot(pool):
        drain = int(assumed("spot_notice_seconds")) - _PRE_STOP_SECONDS - _END_SECONDS - _SPOT_RESERVE_SECONDS
    return DrainPlan(
        pre_stop_seconds=_PRE_STOP_SECONDS, drain_seconds=drain, grace_seconds=_PRE_STOP_SECONDS + drain + _END_SECONDS
    )


def _has_spot(pool: PoolPlan) -> bool:
    return any(rung.kind == "spot" for rung in pool.rungs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Of one container; all None where KubeRay adds its own."""

    startup: ProbePlan | None
    readiness: ProbePlan | None
    liveness: ProbePlan | None


def plan_probes(engine: Engine, startup_seconds: int) -> Probes:
    """Probes of the container that serves HTTP. KubeRay injects its own into Ray's."""
    if engine.name == "ray-llm":
        return Probes(startup=None, readiness=None, liveness=None)
    health = engine.health
    return Probes(
        startup=ProbePlan(
            path=health.startup,
            port=engine.port,
            period_seconds=_STARTUP_PERIOD_SECONDS,
            timeout_seconds=health.timeout_seconds,
            failure_threshold=start_limit_seconds(startup_seconds) // _STARTUP_PERIOD_SECONDS,
        ),
        readiness=ProbePlan(
            path=health.readiness,
            port=engine.port,
            period_seconds=_READINESS_PERIOD_SECONDS,
            timeout_seconds=_READINESS_TIMEOUT_SECONDS,
            failure_threshold=_READINESS_FAILURES,
            success_threshold=_READINESS_SUCCESSES,
        ),
        liveness=ProbePlan(
            path=health.liveness,
            port=engine.port,
            period_seconds=max(_LIVENESS_PERIOD_SECONDS, health.timeout_seconds),
            timeout_seconds=health.timeout_seconds,
            failure_threshold=_LIVENESS_FAILURES,
        ),
    )


def plan_worker(request: EngineRequest, leader: ContainerPlan) -> ContainerPlan:
    """The other pods of a group: alike in everything that the group needs."""
    health = request.engine.health
    # vLLM's take --headless; SGLang's tell their rank by a variable on the same line.
    args = worker_line(request) if request.engine.name == "vllm" else leader.args
    if not health.workers_answer:
        return replace(leader, args=args, startup=None, readiness=None, liveness=None)
    # What they answer says that the process is there, and costs nothing: no readiness of their own.
    readiness = replace(leader.readiness, path=health.startup) if leader.readiness else None
    return replace(leader, args=args, readiness=readiness)


def writes_nowhere(engine: Engine, own: Image | None) -> bool:
    """Whether an engine runs on a read-only root file system.

    vLLM's image is made to run as user 2000, who could write below the home and /tmp alone (vllm-project/vllm#40275),
    so nothing else is taken from it. SGLang's runs an editable checkout and compiles kernels; Ray keeps its session and
    unpacks environments: nobody upstream runs either so.
    """
    return engine.name == "vllm" and not (own is not None and own.writable_root)


def pod_words(request: EngineRequest, container: ContainerPlan, runtime: str, *, pulled: bool) -> dict[str, str]:
    """What pods of a model are like, beyond their numbers."""
    words = {
        "file system": "read-only but for /tmp, its home with what it compiles, and shared memory"
        if container.read_only_root
        else "writable: the image's engine writes beside its own files"
    }
    if pulled:
        words["image"] = (
            f"{container.image}: every node of the pool pulls it as soon as it is there, so that a replica on a node "
            f"that stood starts {pull_seconds()} s earlier, and nodes have a new one before their replica is replaced"
        )
    if runtime == "leader_worker_set":
        words["other ranks"] = (
            "answer the leader's paths without generating, and are probed like it"
            if request.engine.health.workers_answer
            else "have no HTTP server and no probes: an engine that loses a rank ends on all, and the group starts anew"
        )
    return words


def life_numbers(
    request: EngineRequest, pool: PoolPlan, container: ContainerPlan, drain: DrainPlan
) -> tuple[Explained, ...]:
    """Probes and drain as `plan --explain` prints them."""
    engine = request.engine
    probes = _ray_probes(request) if engine.name == "ray-llm" else _probes(engine, container)
    return (*probes, *_drain(engine, pool, drain))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a kind of probe does, and why it is asked as it is."""

    effect: str
    period_why: str
    failures_why: str


_KINDS = {
    "startup": _Told(
        effect="restarted where it is not up after",
        period_why="a replica that is up waits no longer than this for its readiness to be asked",
        failures_why="2 x start / period at least, as 10, 15, 30, 60 minutes: a node that shares its link must not be "
        "killed for it, and another model's edit not restart this one",
    ),
    "readiness": _Told(
        effect="gets no new requests after",
        period_why="short: requests go to the other replicas meanwhile",
        failures_why="one that comes late under load takes no replica out; two successes bring it back, since a router "
        "takes 6 s to let it go, and one that is ready again before is found only when it looks next, after a minute",
    ),
    "liveness": _Told(
        effect="restarted after",
        period_why="no shorter than the path may take",
        failures_why="a replica takes minutes to come back: it is ended when it is hung, not when it is slow",
    ),
}


def _probes(engine: Engine, container: ContainerPlan) -> tuple[Explained, ...]:
    health = engine.health
    plans = {"startup": container.startup, "readiness": container.readiness, "liveness": container.liveness}
    says = {"startup": health.startup_why, "readiness": health.readiness_why, "liveness": health.liveness_why}
    return tuple(_probe(kind, plan, says[kind]) for kind, plan in plans.items() if plan is not None)


def _probe(kind: str, plan: ProbePlan, says: str) -> Explained:
    told = _KINDS[kind]
    return Explained(
        section="probes",
        name=f"{kind}, GET {plan.path}: {told.effect}",
        value=plan.period_seconds * plan.failure_threshold,
        unit="s",
        formula="period x failures",
        inputs=(
            Input(name="path", value=plan.path, unit="", source=says),
            Input(name="period", value=plan.period_seconds, unit="s", source=told.period_why),
            Input(name="failures", value=plan.failure_threshold, unit="in a row", source=told.failures_why),
            Input(name="timeout", value=plan.timeout_seconds, unit="s", source="longer than the path itself may take"),
        ),
    )


def _ray_probes(request: EngineRequest) -> tuple[Explained, ...]:
    period = assumption("kuberay_probe_period_seconds", "period")
    return (
        Explained(
            section="probes",
            name="engine's start on Ray Serve: given up after",
            value=request.patience_seconds,
            unit="s",
            formula="2 x start at least: 600 (its own default), 900, or doublings of that",
            inputs=(planned("start", request.startup_seconds, "s", "start"),),
        ),
        Explained(
            section="probes",
            name="readiness (KubeRay's), raylet and Serve's proxy: gets no new requests after",
            value=assumed("kuberay_probe_period_seconds") * assumed("kuberay_readiness_failures"),
            unit="s",
            formula="period x failures",
            inputs=(period, assumption("kuberay_readiness_failures", "failures")),
        ),
        Explained(
            section="probes",
            name="liveness (KubeRay's), raylet alone: restarted after",
            value=assumed("kuberay_probe_period_seconds") * assumed("kuberay_liveness_failures"),
            unit="s: loading does not count, Serve itself replaces a replica that fails",
            formula="period x failures",
            inputs=(period, assumption("kuberay_liveness_failures", "failures")),
        ),
    )


def _drain(engine: Engine, pool: PoolPlan, drain: DrainPlan) -> tuple[Explained, ...]:
    notice = assumption("spot_notice_seconds", "notice")
    spot = _has_spot(pool)
    killed = Explained(
        section="drain",
        name="pod is killed after",
        value=drain.grace_seconds,
        unit="s",
        formula="pre_stop + running + end",
        inputs=(
            Input(
                name="pre_stop",
                value=drain.pre_stop_seconds,
                unit="s",
                source="endpoints and routers forget the pod meanwhile, and it still answers; a Deployment's rollout "
                "gives them as long to find its successor",
            ),
            Input(
                name="running",
                value=drain.drain_seconds,
                unit="s for requests that run",
                source=_DRAINS[engine.drains]
                + ("; on spot all of it fits the notice" if spot else "; long answers end, a rollout does not hang"),
            ),
            Input(name="end", value=_END_SECONDS, unit="s", source="for an engine that has drained to end"),
        ),
    )
    if not spot:
        return (killed,)
    left = Explained(
        section="drain",
        name="left of the spot notice",
        value=assumed("spot_notice_seconds") - drain.grace_seconds,
        unit="s, until the pod hears of it",
        formula="notice - killed",
        inputs=(notice, planned("killed", drain.grace_seconds, "s", "drain")),
    )
    return killed, left
