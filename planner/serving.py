"""One model of the stack file, decided: cache, command line, probes, drain and scaling."""

from __future__ import annotations

import math
from dataclasses import replace

from catalog.assumptions import assumed
from catalog.load import Catalog
from catalog.types import Engine, ModelCard
from planner.cache import Crowd, medium_of, plan_load
from planner.drafts import Draft
from planner.efa import HUGEPAGES_POD_MIB, plan_gate
from planner.engines import ray
from planner.engines.checks import check_options, lora_rank, options_of
from planner.engines.lines import arguments_of, check_line, env_of, worker_line
from planner.engines.request import EngineRequest
from planner.image_pull import pull_seconds
from planner.images import mirrored
from planner.kv_tiers import check_host_cache, plan_warm_prompts, tier_words
from planner.model_performance import mean_tokens, predict
from planner.naming import SERVING_NAMESPACE, SERVING_PRIORITY, kubernetes_name
from planner.numbers import Sized, model_numbers
from planner.performance import MAX_RUNNING
from planner.performance_explained import performance_numbers
from planner.plan import (
    AnySecretSource,
    CachePlan,
    ContainerPlan,
    DrainPlan,
    LoadPlan,
    ModelPlan,
    PoolPlan,
    ProbePlan,
    RayPlan,
    ScalingPlan,
    SecretPlan,
    ValkeyPlan,
    WeightsPlan,
)
from planner.problems import Findings
from planner.reasons import quantization_words, reasons, running_why, share_why
from planner.room import check_room
from planner.scale_up import plan_step
from planner.scaling import plan_scaling, scaling_words, target_concurrency
from planner.sharing import kv_cache_bytes, share_of_card, step_tokens
from planner.valkey import gcs_store, plan_valkey
from settings.root import Settings
from settings.secrets import KubernetesSecret

_PRE_STOP_SECONDS = 15
"""Endpoints are removed at the same time as SIGTERM is sent: without a pause, requests arrive at a closing server."""
_DRAIN_SECONDS = 300
_PROBE_PERIOD_SECONDS = 10
_RAY_HEAD_CPU = 2
_RAY_HEAD_MEMORY_GIB = 8


def secret_of(namespace: str, default_name: str, default_key: str, source: AnySecretSource) -> SecretPlan:
    """Where a secret lies in the cluster."""
    if isinstance(source, KubernetesSecret):
        return SecretPlan(namespace=namespace, name=source.name, key=source.key, source=source)
    return SecretPlan(namespace=namespace, name=default_name, key=default_key, source=source)


def plan_model(
    sketch: Draft,
    settings: Settings,
    pool: PoolPlan,
    cache: CachePlan,
    catalog: Catalog,
    everyone: Crowd,
    findings: Findings,
) -> ModelPlan:
    """Second pass: everything that follows from the pool, the cache and all other models."""
    model, layout, memory = sketch.model, sketch.fit.layout, sketch.fit.memory
    medium = medium_of(settings, cache, pool.zone)
    if sketch.runtime == "ray_service" and medium == "s3_stream":
        findings.problem(
            (*sketch.path, "runtime"),
            "Ray Serve's configuration cannot name the bucket, whose name is known only when it is made",
            "serve from `cache: {kind: fsx_lustre, ...}` in the pool's zone, or use runtime deployment",
        )
    load = plan_load(settings.cache, cache, medium, sketch.reader(pool), everyone)
    weights = _weights(sketch, cache, medium, load)
    tokens = mean_tokens(sketch)
    options = options_of(model)
    max_running = running_limit(memory.kv_tokens, tokens) if options.max_running == "auto" else int(options.max_running)
    predicted = predict(sketch, pool, max_running=max_running, findings=findings)
    knee = max(1, predicted.plan.knee_concurrency)
    gate = plan_gate(
        model.efa_gate, layout, pool, runtime=sketch.runtime, path=(*sketch.path, "efa_gate"), findings=findings
    )
    startup = startup_seconds(sketch.card, load) + (gate.seconds if gate else 0)
    image, carries_efa = _image(sketch, settings, catalog)
    uses_efa = layout.nodes > 1
    if uses_efa and not carries_efa:
        findings.problem(
            (*sketch.path, "image"),
            f"{image} carries no EFA software: between nodes NCCL would fall back to TCP in silence",
            "build one from images/ (libfabric, aws-ofi-nccl) and name it here with `carries_efa: true`",
        )
    check_room(sketch, pool, findings)
    drain = plan_drain(pool)
    namespace = SERVING_NAMESPACE
    ready_after = startup + max(rung.boot_seconds for rung in pool.rungs)
    target = target_concurrency(model, min(knee, max_running))
    step = plan_step(sketch, pool, predicted.plan, target=target, ready_after=ready_after, findings=findings)
    scaling = plan_scaling(sketch, step, namespace=namespace, target=target, ready_after=ready_after, findings=findings)
    api_key = secret_of(namespace, f"{model.name}-api-key", "api-key", model.api_key)
    check_options(
        sketch.path, model, sketch.card, sketch.engine, layout, files=medium != "s3_stream", findings=findings
    )
    why = reasons(sketch, load, predicted.plan, pool)
    request = EngineRequest(
        name=model.name,
        card=sketch.card,
        engine=sketch.engine,
        layout=layout,
        weights=weights,
        quantization=model.quantization,
        kv_cache=model.kv_cache,
        context_tokens=model.context_tokens,
        max_running=max_running,
        utilization=memory.utilization * share_of_card(pool.sharing),
        kv_cache_bytes=kv_cache_bytes(memory, pool.sharing),
        step_tokens=step_tokens(sketch.facts.gpu, pool.sharing),
        drain_seconds=drain.drain_seconds,
        startup_seconds=startup,
        api_key=api_key,
        uses_efa=uses_efa,
        options=options,
        layout_why=why["layout"],
        running_why=running_why(options.max_running == "auto", memory.kv_tokens, tokens),
        utilization_why=share_why(options.memory_share == "auto", sketch.engine.name, pool),
        lora_rank=lora_rank(options.lora, sketch.engine),
        host_cache_gib=model.kv_offload.cpu_gib if model.kv_offload else 0,
    )
    check_line(sketch.path, sketch.engine, request, sketch.runtime, findings)
    container = _container(sketch, request, pool, image)
    check_host_cache(sketch.path, model, container, findings)
    warm_prompts = plan_warm_prompts(
        sketch.path,
        model,
        sketch.runtime,
        predicted.replica,
        caches_prefixes=options.prefix_caching,
        findings=findings,
    )
    store = gcs_store(sketch.path, model, sketch.runtime, plan_valkey(settings, None), findings)
    return ModelPlan(
        name=model.name,
        namespace=namespace,
        model=sketch.hub_id,
        engine=model.engine,
        engine_version=sketch.engine.engine_version,
        metrics=sketch.engine.metrics,
        runtime=sketch.runtime,
        pool=pool.name,
        layout=layout,
        quantization=quantization_words(sketch),
        context_tokens=model.context_tokens,
        memory=memory,
        max_running=max_running,
        weights=weights,
        container=container,
        worker=_worker(request, container) if uses_efa and sketch.runtime == "leader_worker_set" else None,
        drain=drain,
        startup_seconds=startup,
        scaling=scaling,
        ray=_ray(sketch, request, scaling, store) if sketch.runtime == "ray_service" else None,
        api_key=api_key,
        service_port=sketch.engine.port,
        priority_class=SERVING_PRIORITY,
        efa_gate=gate,
        why={**why, "scaling": scaling_words(scaling, step), **tier_words(model, layout, memory, warm_prompts)},
        warm_prompts=warm_prompts,
        arguments=arguments_of(request, sketch.runtime),
        performance=predicted.plan,
        numbers=model_numbers(
            Sized(
                sketch=sketch,
                pool=pool,
                load=load,
                startup_seconds=startup,
                gate_seconds=gate.seconds if gate else 0,
                drain=drain,
                scaling=scaling,
                step=step,
                knee=knee,
                mean_tokens=tokens,
                max_running=max_running,
            )
        )
        + performance_numbers(sketch, predicted),
    )


def startup_seconds(card: ModelCard, load: LoadPlan) -> int:
    """Image pull, load, compile and graph capture of one replica on a node that is there."""
    pull = pull_seconds()
    if card.moe is not None and card.params_billion >= assumed("large_moe_params_billion"):
        compile_time = assumed("compile_seconds_large_moe")
    else:
        compile_time = (
            assumed("compile_seconds_base")
            + assumed("compile_seconds_per_10b_active") * card.active_params_billion / 10
        )
    return math.ceil(pull + load.seconds + compile_time)


def plan_drain(pool: PoolPlan) -> DrainPlan:
    """How pods of a pool go away. On spot everything must fit the two-minute notice."""
    drain = _DRAIN_SECONDS
    if any(rung.kind == "spot" for rung in pool.rungs):
        drain = int(assumed("spot_notice_seconds")) - _PRE_STOP_SECONDS - 15
    return DrainPlan(
        pre_stop_seconds=_PRE_STOP_SECONDS, drain_seconds=drain, grace_seconds=_PRE_STOP_SECONDS + drain + 10
    )


def _weights(sketch: Draft, cache: CachePlan, medium: str, load: LoadPlan) -> WeightsPlan:
    prefix = f"{cache.data_repository_path.strip('/')}/{sketch.hub_id}/{sketch.model.revision}"
    directory = f"{cache.mount_path}/{prefix}"
    return WeightsPlan(
        medium=medium,  # type: ignore[arg-type]
        hub_id=sketch.hub_id,
        revision=sketch.model.revision,
        gigabytes=sketch.card.checkpoint.gigabytes,
        object_prefix=prefix,
        directory=f"s3://$(WEIGHTS_BUCKET)/{prefix}" if medium == "s3_stream" else directory,
        ready_marker=f"{directory}/.ready",
        load=load,
    )


def _image(sketch: Draft, settings: Settings, catalog: Catalog) -> tuple[str, bool]:
    own = sketch.model.image
    if own is not None:
        reference = f"{own.repository}:{own.tag}" + (f"@{own.digest}" if own.digest else "")
        return reference, own.carries_efa
    entry = catalog.versions.images[sketch.engine.image]
    return mirrored(entry.reference, settings.images.mirror), entry.carries_efa == "yes"


def _container(sketch: Draft, request: EngineRequest, pool: PoolPlan, image: str) -> ContainerPlan:
    layout, hardware, engine = request.layout, pool.hardware, sketch.engine
    share = layout.gpus_per_node / hardware.gpus
    memory = max(4, int(hardware.memory_gib * 0.8 * share))
    shared = 1 if layout.gpus_per_node == 1 else max(2, min(64, memory // 8))
    return ContainerPlan(
        image=image,
        command=() if sketch.runtime == "ray_service" else engine.command,
        args=tuple(token for part in arguments_of(request, sketch.runtime) for token in part.tokens)
        if sketch.runtime != "ray_service"
        else (),
        env=env_of(request, sketch.runtime),
        port=engine.port,
        metrics_port=engine.metrics_port,
        cpu=max(1, int((hardware.vcpus * 0.9 - 1) * share)),
        memory_gib=memory,
        gpus=layout.gpus_per_node,
        efa_devices=hardware.efa_devices if request.uses_efa else 0,
        hugepages_mib=HUGEPAGES_POD_MIB if request.uses_efa else 0,
        shared_memory_gib=shared,
        capabilities=("IPC_LOCK",) if request.uses_efa else (),
        **_probes(request, engine),
    )


def _probes(request: EngineRequest, engine: Engine) -> dict[str, ProbePlan]:
    """KubeRay injects probes of its own into Ray containers; the engines get ours."""
    if engine.name == "ray-llm":
        return {"startup": None, "readiness": None, "liveness": None}  # type: ignore[dict-item]
    timeout = engine.health.timeout_seconds
    return {
        # Twice the planned time: a node that shares its link must not be killed for it.
        "startup": ProbePlan(
            path=engine.health.startup,
            port=engine.port,
            period_seconds=_PROBE_PERIOD_SECONDS,
            timeout_seconds=timeout,
            failure_threshold=math.ceil(2 * request.startup_seconds / _PROBE_PERIOD_SECONDS),
        ),
        "readiness": ProbePlan(
            path=engine.health.readiness, port=engine.port, period_seconds=5, timeout_seconds=5, failure_threshold=3
        ),
        "liveness": ProbePlan(
            path=engine.health.liveness,
            port=engine.port,
            period_seconds=max(10, timeout),
            timeout_seconds=timeout,
            failure_threshold=6,
        ),
    }


def _worker(request: EngineRequest, leader: ContainerPlan) -> ContainerPlan:
    """The other pods of a group: alike in everything that the group needs."""
    if request.engine.name == "vllm":
        # --headless has no HTTP server to probe; the leader's exit restarts the group.
        return replace(leader, args=worker_line(request), startup=None, readiness=None, liveness=None)
    return replace(
        leader, readiness=replace(leader.readiness, path=request.engine.health.startup) if leader.readiness else None
    )


def _ray(sketch: Draft, request: EngineRequest, scaling: ScalingPlan, store: ValkeyPlan | None) -> RayPlan:
    return RayPlan(
        ray_version=sketch.engine.version,
        serve_config=ray.serve_config(request, sketch.facts.gpu, scaling),
        worker_group=kubernetes_name(sketch.model.pool, limit=30),
        min_workers=scaling.min_replicas,
        max_workers=scaling.max_replicas,
        head_cpu=_RAY_HEAD_CPU,
        head_memory_gib=_RAY_HEAD_MEMORY_GIB,
        # On expiry a RayService is lost for good: leave room for scarce capacity, a day of it.
        initializing_timeout_minutes=24 * 60,
        idle_seconds=ray.IDLE_SECONDS,
        gcs_store=store,
    )


def running_limit(kv_tokens: int, mean_tokens: int) -> int:
    """Sequences that the engine may run at once: somewhat more than the cache holds of mean length."""
    count = min(MAX_RUNNING, max(1, int(1.3 * kv_tokens / mean_tokens)))
    return count if count < 16 else count // 8 * 8
