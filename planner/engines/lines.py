"""Command line and environment of whichever engine a model has, and the check that the pinned version takes them."""

from __future__ import annotations

import json

from catalog.engine_flags import parser_data
from catalog.engine_flags.variables import unread
from catalog.types import Engine
from planner.engines import ray, sglang, vllm
from planner.engines.checks import refused
from planner.engines.request import EngineRequest
from planner.plan import ArgumentPlan, EnvVar
from planner.problems import Findings
from settings.errors import Path


def arguments_of(request: EngineRequest, runtime: str) -> tuple[ArgumentPlan, ...]:
    """Options with their reasons; on Ray, whose pods have no engine on their command line, the engine's keywords."""
    if runtime == "ray_service":
        known = {argument.tokens[0].partition("=")[0]: argument.why for argument in vllm.arguments(request)}
        return tuple(
            ArgumentPlan(
                tokens=(f"{name}={json.dumps(value)}",), why=known.get(_flag_of(name), "engine_kwargs of Ray Serve LLM")
            )
            for name, value in ray.engine_kwargs(request).items()
        )
    made = vllm.arguments(request) if request.engine.name == "vllm" else sglang.arguments(request)
    return tuple(ArgumentPlan(tokens=argument.tokens, why=argument.why) for argument in made)


def _flag_of(keyword: str) -> str:
    return f"--{keyword.replace('_', '-')}"


def worker_line(request: EngineRequest) -> tuple[str, ...]:
    """Arguments of the pods of a vLLM group beyond the first."""
    return vllm.worker_args(request)


def env_of(request: EngineRequest, runtime: str) -> tuple[EnvVar, ...]:
    """Environment of every pod."""
    if runtime == "ray_service":
        return ray.env(request)
    return vllm.env(request) if request.engine.name == "vllm" else sglang.env(request)


def check_line(path: Path, engine: Engine, request: EngineRequest, runtime: str, findings: Findings) -> None:
    """Hold what was made to the pinned version's parser. What users added is judged where they wrote it."""
    data = parser_data(engine.name)
    if runtime == "ray_service":
        unknown = [
            name
            for name in ray.engine_kwargs(request)
            if name not in data.engine_arguments and name not in data.by_dest
        ]
        refusals = [(name, "is no engine argument") for name in unknown]
    else:
        own = [token for part in arguments_of(request, runtime) for token in part.tokens]
        own = [token for token in own if token not in request.options.extra_args]
        refusals = [(found.token, found.why) for found in refused(own, engine.name)]
    variables = (unread(engine.name, variable.name) for variable in env_of(request, runtime))
    refusals += [(found.token, found.why) for found in variables if found is not None]
    for token, why in refusals:
        if not _told_of(token, request):
            findings.problem(
                (*path, "engine"),
                f"{data.engine} {data.version} has no use for `{token}`: {why}",
                "a defect of the planner: please report it",
            )


def _told_of(token: str, request: EngineRequest) -> bool:
    """Whether the option follows from `engine_options`, which are judged with their own place."""
    options = request.options
    if options.lora is not None and "lora" in token:
        return True
    return token in {"--tool-call-parser", "--reasoning-parser", "--quantization"}
