"""What no router does: adapters, Ray Serve, two models that stand by for one another, names that operators take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.drafts import Draft
from planner.plan import ModelPlan
from planner.problems import Findings


def refuse_loops(drafts: Sequence[Draft], findings: Findings) -> None:
    """Two models that stand by for one another would hand a request to and fro while neither serves."""
    follows = {sketch.model.name: sketch.model.standby.model for sketch in drafts if sketch.model.standby is not None}
    for sketch in drafts:
        name = sketch.model.name
        if sketch.model.standby is None or follows[name] == name:
            continue
        passed = [name]
        while (following := follows.get(passed[-1])) is not None and following not in passed:
            passed.append(following)
        if following == name:
            findings.problem(
                (*sketch.path, "standby", "model"),
                f"requests would go round: {' -> '.join([*passed, name])}",
                "leave out one `standby` of them, or name a model that has none",
            )


def refuse_names_of_operators(drafts: Sequence[Draft], by_name: Mapping[str, ModelPlan], findings: Findings) -> None:
    """LeaderWorkerSet names a Service after each group, KubeRay two after each RayService."""
    for sketch in drafts:
        name = sketch.model.name
        taken = {
            "leader_worker_set": [f"{name}-{group}" for group in range(sketch.model.replicas.max)],
            "ray_service": [f"{name}-head-svc", f"{name}-serve-svc"],
        }.get(sketch.runtime, [])
        for other in by_name.keys() & set(taken):
            findings.problem(
                (*sketch.path, "name"),
                f"its {sketch.runtime.replace('_', ' ')} makes a Service `{other}`, which is that model's name",
                "give one of the two another name",
            )


def refuse_adapters(sketch: Draft, why: str, findings: Findings) -> None:
    """smg 1.13 knows one name of a worker, and an alias reaches the engine as the model's own: both were tried
    (tests/router)."""
    options = sketch.model.engine_options
    if options is None or options.lora is None or sketch.role is not None:  # of two groups it is told elsewhere
        return
    model = sketch.model
    help_text = "set `routing.kind: service`, or leave out `lora`"
    if model.replicas.min == 0 or model.standby is not None:
        help_text = "leave out `lora`, or set `replicas.min` to 1 without a `standby`, and `routing.kind: service`"
    findings.problem(
        (*sketch.path, "engine_options", "lora"),
        f"its router ({why}) finds no replica by an adapter's name: clients would be told 404",
        help_text,
    )


def refuse_beside_ray(sketch: Draft, findings: Findings) -> None:
    """Ray Serve has a proxy of its own on every node, which also balances and queues."""
    model = sketch.model
    for key, asked in (
        ("routing", model.routing.kind == "router" or "policy" in model.routing.model_fields_set),
        ("standby", model.standby is not None),
    ):
        if asked:
            findings.problem(
                (*sketch.path, key),
                "Ray Serve has its own proxy and takes no router",
                "leave it out, or use runtime deployment or leader_worker_set",
            )
    if model.replicas.min == 0:
        findings.problem(
            (*sketch.path, "replicas", "min"),
            "a RayService keeps one replica at least here: nothing holds requests before its own proxy",
            "set it to 1, or use runtime deployment or leader_worker_set",
        )
