"""Ways to replicas: whether a model has a router, and what the stack file says of them that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planner.drafts import Draft
from planner.plan import ModelPlan
from planner.problems import Findings
from settings.errors import Path, did_you_mean
from settings.root import Settings
from settings.serving import Model

_SERVICE_REPLICAS = 2
"""Most replicas that a plain Service is left to: with so few, each holds half of all prefixes soon enough."""

_Told = tuple[Path, str, str]


def router_name(model: str) -> str:
    """Of the router's Deployment, account and policy, and the label that its pods carry."""
    return f"{model}-router"


def why_routed(model: Model) -> str | None:
    """Why a model has a router; None where it has none."""
    if model.disaggregated is not None:
        return "a request goes to prefill first, then to decode"
    if model.runtime == "ray_service" or model.routing.kind == "service":
        return None
    return _demands(model) or ("asked for in the stack file" if model.routing.kind == "router" else None)


def _demands(model: Model) -> str | None:
    if model.replicas.min == 0:
        return "it may have no replica: a request must wait for one, and bring it"
    if model.standby is not None:
        return f"`{model.standby.model}` stands by"
    if model.replicas.max > _SERVICE_REPLICAS:
        return f"up to {model.replicas.max} replicas, each with its own prefix cache"
    return None


def check_routing(settings: Settings, findings: Findings) -> None:
    """Refuses ways to replicas that there cannot be, for all models, whatever else is wrong with them."""
    names = [model.name for model in settings.models]
    for index, model in enumerate(settings.models):
        told = [*_standby(model, names)]
        if model.disaggregated is None:  # what two groups cannot have is told where they are made
            told += [*(_beside_ray(model) if model.runtime == "ray_service" else _routing(model))]
        if why_routed(model) is not None and router_name(model.name) in names:
            words = f"its router would be called like the model `{router_name(model.name)}`"
            told.append((("name",), words, "give one of the two another name"))
        for key, message, help_text in told:
            findings.problem(("models", index, *key), message, help_text)
    _refuse_loops(settings.models, findings)


def _standby(model: Model, names: Sequence[str]) -> Iterator[_Told]:
    if model.standby is None:
        return
    key: Path = ("standby", "model")
    if model.standby.model == model.name:
        yield key, "a model cannot stand by for itself", "name another entry of `models`"
    elif model.standby.model not in names:
        yield (
            key,
            f"there is no model `{model.standby.model}`",
            did_you_mean(model.standby.model, [name for name in names if name != model.name])
            or "name another entry of `models`",
        )


def _routing(model: Model) -> Iterator[_Told]:
    if model.routing.kind == "service":
        if model.replicas.min == 0 or model.standby is not None:
            words = f"a plain Service cannot: {_demands(model)}"
            yield ("routing", "kind"), words, "leave it at `auto`, or say `router`"
        if "policy" in model.routing.model_fields_set:
            yield (
                ("routing", "policy"),
                "a plain Service has no policy: it spreads connections",
                "leave `policy` out, or say `kind: router`",
            )
    options, why = model.engine_options, why_routed(model)
    if why is None or options is None or options.lora is None:
        return
    # smg 1.13 knows one name of a worker, and an alias reaches the engine as the model's own: both were tried
    # (tests/router).
    help_text = "set `routing.kind: service`, or leave out `lora`"
    if model.replicas.min == 0 or model.standby is not None:
        help_text = "leave out `lora`, or set `replicas.min` to 1 without a `standby`, and `routing.kind: service`"
    yield (
        ("engine_options", "lora"),
        f"its router ({why}) finds no replica by an adapter's name: clients would be told 404",
        help_text,
    )


def _beside_ray(model: Model) -> Iterator[_Told]:
    """Ray Serve has a proxy of its own on every node, which also balances and queues."""
    for key, asked in (
        ("routing", model.routing.kind == "router" or "policy" in model.routing.model_fields_set),
        ("standby", model.standby is not None),
    ):
        if asked:
            yield (
                (key,),
                "Ray Serve has its own proxy and takes no router",
                "leave it out, or use runtime deployment or leader_worker_set",
            )
    if model.replicas.min == 0:
        yield (
            ("replicas", "min"),
            "a RayService keeps one replica at least here: nothing holds requests before its own proxy",
            "set it to 1, or use runtime deployment or leader_worker_set",
        )


def _refuse_loops(models: Sequence[Model], findings: Findings) -> None:
    """Two models that stand by for one another would hand a request to and fro while neither serves."""
    follows = {model.name: model.standby.model for model in models if model.standby is not None}
    for index, model in enumerate(models):
        name = model.name
        if model.standby is None or follows[name] == name:
            continue
        passed = [name]
        while (following := follows.get(passed[-1])) is not None and following not in passed:
            passed.append(following)
        if following == name:
            findings.problem(
                ("models", index, "standby", "model"),
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
