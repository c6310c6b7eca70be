"""One model of the stack file, decided: cache, command line, probes, drain and scaling."""

from __future__ import annotations

from catalog.load import Catalog
from planner.cache import Crowd, medium_of, plan_load
from planner.disaggregation import RECIPES
from planner.drafts import Draft
from planner.efa import efa_devices, gate_words, hugepages_mib, plan_gate
from planner.engines import ray, vllm
from planner.engines.checks import check_options_in_layout, lora_rank, options_of
from planner.engines.lines import arguments_of, check_line, env_of
from planner.engines.request import EngineRequest
from planner.images import mirrored
from planner.kv_tiers import Tiered, check_host_cache, plan_kv_tiers, store_words, tier_words
from planner.life import life_numbers, plan_drain, plan_probes, plan_worker, pod_words, writes_nowhere
from planner.model_performance import mean_tokens, predict
from planner.naming import SERVING_NAMESPACE, SERVING_PRIORITY, kubernetes_name
from planner.numbers import Sized, model_numbers
from planner.performance import MAX_RUNNING
from planner.performance.step import chunk_tokens
from planner.performance_explained import performance_numbers
from planner.plan import (
    AnySecretSource,
    CachePlan,
    ContainerPlan,
    DisaggregationPlan,
    ModelPlan,
    PoolPlan,
    RayPlan,
    ScalingPlan,
    SecretPlan,
    ValkeyPlan,
)
from planner.problems import Findings
from planner.reasons import quantization_words, reasons, running_why, share_why
from planner.revisions import plan_weights
from planner.room import check_room
from planner.scale_up import plan_step
from planner.scaling import plan_scaling, scaling_words, target_concurrency
from planner.shards import load_words, plan_shards
from planner.sharing import kv_cache_bytes, share_of_card, step_tokens
from planner.start import startup_seconds, steps_of
from planner.valkey import gcs_store, plan_kv_store, plan_valkey
from planner.warm_prompts import plan_warm_prompts, warm_prompts_words
from settings.root import Settings
from settings.secrets import KubernetesSecret

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
    *,
    group: DisaggregationPlan | None = None,
) -> ModelPlan:
    """Second pass: everything that follows from the pool, the cache and all other models; `group`: of two."""
    model, layout, memory = sketch.model, sketch.fit.layout, sketch.fit.memory
    medium = medium_of(settings, cache, pool.zone)
    if sketch.runtime == "ray_service" and medium == "s3_stream":
        findings.problem(
            (*sketch.path, "runtime"),
            "Ray Serve's configuration cannot name the bucket, whose name is known only when it is made",
            "serve from `cache: {kind: fsx_lustre, ...}` in the pool's zone, or use runtime deployment",
        )
    load = plan_load(settings.cache, cache, medium, sketch.reader(pool), everyone)
    image, without_efa = _image(sketch, settings, catalog)
    shards = plan_shards(sketch, medium, load, everyone, findings)
    weights = plan_weights(sketch, settings, cache, medium, load, image=image, shards=shards)
    tokens = mean_tokens(sketch)
    options = options_of(model)
    max_running = running_limit(memory.kv_tokens, tokens) if options.max_running == "auto" else int(options.max_running)
    predicted = predict(sketch, pool, max_running=max_running, findings=findings)
    knee = max(1, predicted.plan.knee_concurrency)
    gate = plan_gate(
        model.efa_gate,
        layout,
        pool,
        runtime=sketch.runtime,
        moves_cache=group is not None,
        path=(*sketch.path, "efa_gate"),
        findings=findings,
    )
    kept = any(one.name == "compiled" for one in weights.directories)
    steps = steps_of(sketch.card, load, gate_seconds=gate.seconds if gate else 0, shards=shards, kept=kept)
    startup = startup_seconds(steps)
    uses_efa = layout.nodes > 1
    if sketch.uses_efa and without_efa:
        who = "NCCL" if uses_efa else "the KV cache"
        built = (name for name, one in catalog.versions.images.items() if one.built_from == sketch.engine.image)
        recipe = RECIPES[model.engine] if group is not None else next(built)
        findings.problem(
            (*sketch.path, "image"),
            f"{image} carries no EFA software ({without_efa}): between nodes {who} would fall back to TCP in silence",
            f"build `{recipe}` from images/ (libfabric, aws-ofi-nccl) and name it here with `carries_efa: true`",
        )
    check_room(sketch, pool, findings)
    drain = plan_drain(pool)
    namespace = SERVING_NAMESPACE
    ready_after = startup + max(rung.boot_seconds for rung in pool.rungs)
    target = target_concurrency(model, min(knee, max_running))
    step = plan_step(sketch, pool, predicted.plan, target=target, ready_after=ready_after, findings=findings)
    scaling = plan_scaling(sketch, step, namespace=namespace, target=target, ready_after=ready_after, findings=findings)
    api_key = secret_of(namespace, f"{sketch.serves}-api-key", "api-key", model.api_key)
    check_options_in_layout(
        sketch.path,
        model,
        sketch.engine,
        layout,
        files=medium != "s3_stream",
        running=max_running,
        step_tokens=sketch.serving.step_tokens or chunk_tokens(model.engine, sketch.facts.gpu),
        findings=findings,
    )
    why = {
        **reasons(sketch, load, predicted.plan, pool),
        "way of loading": load_words(sketch, medium, load, shards, everyone),
    }
    tiered = Tiered(
        path=sketch.path,
        model=model,
        card=sketch.card,
        runtime=sketch.runtime,
        layout=layout,
        memory=memory,
        options=options,
    )
    tiers = plan_kv_tiers(tiered, plan_kv_store(settings), findings)
    request = EngineRequest(
        name=sketch.serves,
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
        startup_seconds=startup - round(shards.init_seconds) if shards else startup,
        api_key=api_key,
        uses_efa=uses_efa,
        options=options,
        layout_why=why["layout"],
        running_why=running_why(options.max_running == "auto", memory.kv_tokens, tokens),
        utilization_why=share_why(options.memory_share == "auto", sketch.engine.name, pool),
        lora_rank=lora_rank(options.lora, sketch.engine),
        kv_tiers=tiers,
        group=group,
    )
    check_line(sketch.path, sketch.engine, request, sketch.runtime, findings)
    container = _container(sketch, request, pool, image)
    if tiers is not None:
        check_host_cache(sketch.path, model, container, tiers, findings)
        why = {**why, "kv_offload": tier_words(tiers, memory)}
        shared = store_words(tiered, tiers, predicted.replica, pool, settings, catalog, findings)
        why = {**why, "kv_store": shared} if shared else why
    warm_prompts = plan_warm_prompts(model, predicted.replica, caches=layout.data)
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
        worker=plan_worker(request, container) if uses_efa and sketch.runtime == "leader_worker_set" else None,
        drain=drain,
        startup_seconds=startup,
        start_limit_seconds=request.patience_seconds,
        scaling=scaling,
        ray=_ray(sketch, request, scaling, store) if sketch.runtime == "ray_service" else None,
        api_key=api_key,
        service_port=sketch.engine.port,
        priority_class=SERVING_PRIORITY,
        efa_gate=gate,
        why={
            **why,
            "scaling": scaling_words(scaling, step),
            **pod_words(request, container, sketch.runtime, pulled=settings.images.pre_pull),
            **({"warm_prompts": warm_prompts_words(warm_prompts)} if warm_prompts else {}),
            **({"EFA": gate_words(gate, pool.name)} if gate else {}),
        },
        kv_tiers=tiers,
        warm_prompts=warm_prompts,
        warm_replicas=model.warm_replicas,
        disaggregation=group,
        arguments=arguments_of(request, sketch.runtime),
        performance=predicted.plan,
        numbers=model_numbers(
            Sized(
                sketch=sketch,
                pool=pool,
                cache=cache,
                weights=weights,
                steps=steps,
                warm_prompts=warm_prompts,
                scaling=scaling,
                step=step,
                knee=knee,
                mean_tokens=tokens,
                max_running=max_running,
            )
        )
        + life_numbers(request, pool, container, drain)
        + performance_numbers(sketch, predicted),
    )


def _image(sketch: Draft, settings: Settings, catalog: Catalog) -> tuple[str, str | None]:
    """The engine's image, and why it carries no EFA software; None where it does."""
    own = sketch.model.image
    if own is not None:
        reference = f"{own.repository}:{own.tag}" + (f"@{own.digest}" if own.digest else "")
        return reference, None if own.carries_efa else "`carries_efa` is not set"
    entry = catalog.versions.images[sketch.engine.image]
    why = None if entry.carries_efa == "yes" else entry.carries_efa_reason
    return mirrored(entry.reference, settings.images.mirror), why


def _container(sketch: Draft, request: EngineRequest, pool: PoolPlan, image: str) -> ContainerPlan:
    layout, hardware, engine = request.layout, pool.hardware, sketch.engine
    share = layout.gpus_per_node / hardware.gpus
    probes = plan_probes(engine, request.startup_seconds)
    # A group of several nodes fills them; the hand-over of a KV cache shares a node's devices by GPUs.
    takes_efa = request.uses_efa or request.group is not None
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
        efa_devices=efa_devices(pool, layout.gpus_per_node) if takes_efa else 0,
        hugepages_mib=hugepages_mib(pool, layout.gpus_per_node) if takes_efa else 0,
        shared_memory_gib=shared + (request.kv_tiers.region_gib if request.kv_tiers else 0),
        capabilities=("IPC_LOCK",) if takes_efa else (),
        startup=probes.startup,
        readiness=probes.readiness,
        liveness=probes.liveness,
        read_only_root=writes_nowhere(engine, sketch.model.image),
        saving_args=vllm.saving_args(request) if request.weights.shards and engine.name == "vllm" else (),
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
