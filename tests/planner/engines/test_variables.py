"""Environment variables of engines: read by the pinned versions or the libraries under them, no typo possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

import program
from catalog.engine_flags import parser_data
from catalog.engine_flags.variables import listed, read_by, unread
from components.serving.pods import ENGINE_CONTAINER
from planner import StackFileError, load_and_plan
from planner.engines import vllm
from planner.engines.matrix import matrix
from planner.engines.request import EngineRequest
from planner.plan import ContainerPlan, EnvVar, ModelPlan
from tests.factories import STACKS, stack_plan
from tests.harness import deploy
from tests.stacks import changed

PREFIXES = ("VLLM_", "SGLANG_", "LMCACHE_", "RAY_", "RAYLLM_")


def engine_of(model: ModelPlan) -> str:
    return "ray-llm" if model.ray is not None else model.engine


def containers(model: ModelPlan) -> Iterator[ContainerPlan]:
    yield model.container
    if model.worker is not None:
        yield model.worker


def test_every_variable_of_the_matrix_is_read() -> None:
    models = [row.plan for row in matrix() if row.plan is not None]
    asked = {(engine_of(model), variable.name) for model in models for c in containers(model) for variable in c.env}
    assert {engine for engine, _ in asked} == {"vllm", "sglang", "ray-llm"}
    assert any(name.startswith("LMCACHE_") for _, name in asked)
    assert [pair for pair in sorted(asked) if unread(*pair) is not None] == []


@pytest.mark.parametrize("stack", STACKS)
def test_every_variable_of_a_declared_engine_is_read(stack: str) -> None:
    """What components add to the plan's is held to the same lists."""
    plan = stack_plan(stack)
    engines = {f"{model.name}-workload": engine_of(model) for model in plan.models}
    found = 0
    for record in deploy(lambda: program.build(plan) and None, stack=plan.stack):
        engine = engines.get(record.name)
        for container in engine_containers(record.inputs) if engine else ():
            names = [variable["name"] for variable in container.get("env", ())]
            found += len(names)
            assert [name for name in names if unread(str(engine), name) is not None] == [], record.name
    assert found


def engine_containers(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        held = cast("Mapping[str, Any]", value)
        if held.get("name") == ENGINE_CONTAINER and "image" in held:
            yield held
        for item in held.values():
            yield from engine_containers(item)
    elif isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            yield from engine_containers(item)


UNREAD = [
    ("vllm", "VLLM_USE_V1", "older versions", "only engine"),
    ("vllm", "VLLM_ATTENTION_BACKEND", "older versions", "--attention-backend"),
    ("vllm", "VLLM_CACHE_ROOTS", "reads", "VLLM_CACHE_ROOT"),
    ("vllm", "LMCACHE_MAX_LOCAL_CPU_SIZES", "reads", "LMCACHE_MAX_LOCAL_CPU_SIZE"),
    ("sglang", "SGL_ENABLE_JIT_DEEPGEMM", "older versions", "SGLANG_ENABLE_JIT_DEEPGEMM"),
    ("sglang", "VLLM_CACHE_ROOT", "reads", ""),
    ("ray-llm", "RAYLLM_ENGINE_START_TIMEOUT", "reads", "RAYLLM_ENGINE_START_TIMEOUT_S"),
    ("ray-llm", "NCCL_SOCKET_IFNAMES", "reads", "NCCL_SOCKET_IFNAME"),
]


@pytest.mark.parametrize(("engine", "name", "why", "advice"), UNREAD, ids=[case[1] for case in UNREAD])
def test_what_nobody_reads_is_told_with_what_is(engine: str, name: str, why: str, advice: str) -> None:
    refusal = unread(engine, name)
    assert refusal is not None
    assert why in refusal.why
    assert advice in (refusal.help or "")


def test_the_list_by_hand_holds_nothing_of_an_engine() -> None:
    """Those are recorded from the engines, or they are wrong."""
    assert [name for name in listed()["libraries"] if name.startswith(PREFIXES)] == []
    assert all(entry["source"] for kind in ("libraries", "own") for entry in listed()[kind].values())


def test_what_is_called_removed_is_not_read() -> None:
    for engine, names in listed()["removed"].items():
        assert not set(names) & parser_data(engine).environment


def test_the_records_hold_more_than_each_engines_own_list() -> None:
    """Names that are in no registry of vLLM's or SGLang's, but read in their source."""
    assert "TRITON_CACHE_DIR" in read_by("vllm")
    assert "RAYLLM_ENGINE_START_TIMEOUT_S" in read_by("ray-llm")
    assert "LMCACHE_REMOTE_STORAGE_PLUGINS" in read_by("vllm")
    assert "LMCACHE_REMOTE_STORAGE_PLUGINS" not in read_by("ray-llm")


def test_a_plan_with_a_variable_that_nobody_reads_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = vllm.env
    typo = EnvVar(name="VLLM_CACHE_ROTO", value="/tmp")  # noqa: S108

    def with_typo(request: EngineRequest) -> tuple[EnvVar, ...]:
        return (*made(request), typo)

    monkeypatch.setattr(vllm, "env", with_typo)
    with pytest.raises(StackFileError, match="VLLM_CACHE_ROTO"):
        load_and_plan(changed(tmp_path, "dev", {}))
