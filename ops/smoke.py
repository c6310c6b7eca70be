"""`smoke`: one real completion through each model's endpoint, and proof that strangers get none."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.cluster import Cluster, Json, Objects, connect
from ops.console import FINDINGS, OK, out, print_json, table
from ops.endpoint import Completion, Endpoint
from ops.errors import MissingError, OpsError, UsageError
from ops.port_forward import forward
from ops.project import models_of, plan_of
from planner.plan import ModelPlan, SecretPlan

_TEXT_SHOWN: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeOptions:
    """What the command line says."""

    models: list[str] | None
    url: str | None
    key_env: str | None
    timeout_seconds: int
    kubeconfig: Path | None
    context: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeResult:
    """What one endpoint did."""

    model: str
    ok: bool
    completion: Completion | None = None
    refuses_strangers: bool | None = None
    """None where no key is enforced: a Ray service, or a URL that was given without a key."""
    problem: str | None = None


def show_smoke(stack: str, options: SmokeOptions, *, as_json: bool) -> int:
    """Smoke a stack's models, or one URL; 1 where one of them failed."""
    if options.url is not None:
        results = [smoke_url(options.url, options)]
    else:
        plan = plan_of(stack)
        models = [model for model in models_of(plan, options.models) if model.is_endpoint]
        with connect(plan, kubeconfig=options.kubeconfig, context=options.context) as cluster:
            results = [_smoke_model(cluster, model, options.timeout_seconds) for model in models]
    if as_json:
        print_json({"ok": all(result.ok for result in results), "models": results})
    else:
        _print(results)
    return OK if all(result.ok for result in results) else FINDINGS


def _print(results: Iterable[SmokeResult]) -> None:
    rows: list[tuple[str, ...]] = []
    for result in results:
        done = result.completion
        guard = {True: "401", False: "[red]answers[/red]", None: "no key"}[result.refuses_strangers]
        if done is None:
            rows.append((result.model, "[red]failed[/red]", "", "", guard, ""))
            continue
        verdict = "[green]ok[/green]" if result.ok else "[red]failed[/red]"
        tokens = f"{done.prompt_tokens} + {done.completion_tokens}"
        text = " ".join(done.text.split()).replace("[", r"\[")
        rows.append((result.model, verdict, f"{done.seconds:.2f}", tokens, guard, text[:_TEXT_SHOWN]))
    columns = ("model", "", "s", "tokens in + out", "without key", "answer")
    out.print(table("Smoke test", columns, rows, right=(2, 3)))
    for result in results:
        if result.problem:
            out.print(f"{result.model}: {result.problem}", markup=False, soft_wrap=True)


def smoke(name: str, endpoint: Endpoint, *, guarded: bool) -> SmokeResult:
    """One completion; where a key guards the endpoint, one attempt without it first."""
    refuses: bool | None = None
    try:
        refuses = endpoint.refuses_strangers(name) if guarded else None
        done = endpoint.complete(name)
    except OpsError as error:
        return SmokeResult(model=name, ok=False, refuses_strangers=refuses, problem=str(error))
    if refuses is False:
        problem = "error: the endpoint answers without a key\n  help: start the engine with its API key"
        return SmokeResult(model=name, ok=False, completion=done, refuses_strangers=refuses, problem=problem)
    return SmokeResult(model=name, ok=True, completion=done, refuses_strangers=refuses)


def smoke_url(url: str, options: SmokeOptions) -> SmokeResult:
    """Smoke a URL; its key comes from an environment variable, so that no shell history holds it."""
    key = None
    if options.key_env is not None:
        key = os.environ.get(options.key_env)
        if not key:
            raise UsageError(f"the environment has no {options.key_env}", help=f"export {options.key_env}=...")
    endpoint = Endpoint(url, key, timeout_seconds=options.timeout_seconds)
    name = options.models[0] if options.models else next(iter(endpoint.models()), None)
    if name is None:
        raise MissingError(f"{url} serves no model", help="say which with --model")
    return smoke(name, endpoint, guarded=key is not None)


def _smoke_model(cluster: Cluster, model: ModelPlan, timeout_seconds: int) -> SmokeResult:
    # Ray Serve LLM checks no key; its NetworkPolicy guards it.
    guarded = model.runtime != "ray_service"
    try:
        key = read_key(cluster, model.api_key) if guarded else None
        with forward(
            cluster.kubeconfig,
            cluster.context,
            namespace=model.namespace,
            service=model.name,
            port=model.service_port,
        ) as port:
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key, timeout_seconds=timeout_seconds)
            return smoke(model.name, endpoint, guarded=guarded)
    except OpsError as error:
        return SmokeResult(model=model.name, ok=False, problem=str(error))


def read_key(objects: Objects, secret: SecretPlan) -> str:
    """The API key from its Secret; raises MissingError where it is not there."""
    found = objects.get(f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}")
    data: Json = (found or {}).get("data") or {}
    if secret.key not in data:
        what = f"has no key `{secret.key}`" if found else "does not exist"
        raise MissingError(
            f"Secret {secret.namespace}/{secret.name} {what}",
            help="`make up` writes it" if secret.made_here else "whoever keeps this Secret must put it there",
        )
    return base64.b64decode(data[secret.key]).decode().strip()
