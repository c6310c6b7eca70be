"""The matrix: every combination's command line parses, every serve document validates, the page is current."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from catalog.engine_flags import parsed, parser_data, serve_schemas
from planner.engines import page
from planner.engines.checks import filled
from planner.engines.matrix import MODELS, lines, matrix
from tests.factories import STACKS, stack_plan


def test_it_is_large_and_wide() -> None:
    planned = [row for row in matrix() if row.plan is not None]
    assert len(planned) >= 40
    assert {row.case.model for row in planned} >= set(MODELS)
    runtimes = {(row.plan.engine, row.plan.runtime, row.plan.layout.nodes > 1) for row in planned if row.plan}
    assert runtimes >= {
        ("vllm", "deployment", False),
        ("vllm", "leader_worker_set", True),
        ("vllm", "ray_service", False),
        ("vllm", "ray_service", True),
        ("sglang", "deployment", False),
        ("sglang", "leader_worker_set", True),
    }


def test_no_case_with_options_of_its_own_is_refused() -> None:
    assert [
        (row.case.name, row.why_not)
        for row in matrix()
        if row.case.name.partition(" ")[0] != row.case.model and row.plan is None
    ] == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_command_line_parses(engine: str) -> None:
    refused = {
        name: found for name, line in lines()[engine].items() if (found := parser_data(engine).check(filled(line)))
    }
    assert refused == {}


@pytest.mark.parametrize("stack", STACKS)
def test_command_lines_of_the_committed_stacks_parse(stack: str) -> None:
    for model in stack_plan(stack).models:
        for container in (model.container, model.worker):
            if container is not None and model.ray is None:
                assert parser_data(model.engine).check(filled(container.args)) == []


def test_no_option_is_used_that_the_real_parser_never_saw() -> None:
    """A new option in our lines asks for a new run of `catalog.tools.engine_flags --lines`."""
    for engine, named in lines().items():
        used = {option for line in named.values() for option in options_of(line)}
        assert used <= set(parsed()[engine]["options"]), engine


def options_of(line: Any) -> list[str]:
    if isinstance(line, list):
        return [token.partition("=")[0] for token in line if token.startswith("--")]
    return [key for config in llm_configs(line) for key in config["engine_kwargs"]]


def llm_configs(document: Any) -> list[Any]:
    (application,) = document["applications"]
    return application["args"]["llm_configs"]


def plain(value: Any) -> Any:
    """Mappings and sequences as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def serve_documents() -> dict[str, Any]:
    committed = {
        model.name: plain(model.ray.serve_config)
        for stack in STACKS
        for model in stack_plan(stack).models
        if model.ray is not None
    }
    return {**{name: plain(document) for name, document in lines()["ray-llm"].items()}, **committed}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that takes no key it does not name: Ray's own pass over such keys in silence."""
    return {**schema, "additionalProperties": False}


def test_serve_documents_validate_against_ray_serves_own_schema() -> None:
    schemas = serve_schemas()
    definitions = schemas["serve"]["$defs"]
    application = closed(definitions["ServeApplicationSchema"])
    serve = {**closed(schemas["serve"]), "$defs": {**definitions, "ServeApplicationSchema": application}}
    documents = serve_documents()
    assert len(documents) > 40
    for name, document in documents.items():
        jsonschema.validate(document, serve)
        for config in llm_configs(document):
            jsonschema.validate(config, schemas["llm_config"])
            deployment = config["deployment_config"]
            assert set(deployment) <= set(schemas["deployment_options"]), name
            jsonschema.validate({"name": "x", **deployment}, {**definitions["DeploymentSchema"], "$defs": definitions})
            jsonschema.validate(deployment["autoscaling_config"], closed(schemas["autoscaling"]))


def test_the_schema_refuses_a_misspelt_key() -> None:
    document = next(iter(serve_documents().values()))
    (config,) = llm_configs(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "engine_kwarg": {}}, serve_schemas()["llm_config"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"min_replica": 1}, closed(serve_schemas()["autoscaling"]))


def test_engine_arguments_on_ray_are_of_the_vllm_inside() -> None:
    data = parser_data("ray-llm")
    for name, document in serve_documents().items():
        for config in llm_configs(document):
            for key, value in config["engine_kwargs"].items():
                assert key in data.engine_arguments or key in data.by_dest, (name, key)
                flag = data.by_dest.get(key)
                if flag is not None and flag.takes == "value" and not isinstance(value, dict):
                    assert flag.refusal(str(value)) is None, (name, key, value)


def test_ray_places_as_many_workers_as_the_layout_has_ranks() -> None:
    for row in matrix():
        if row.plan is not None and row.plan.ray is not None:
            (config,) = llm_configs(row.plan.ray.serve_config)
            kwargs = config["engine_kwargs"]
            ranks = kwargs["tensor_parallel_size"] * kwargs.get("pipeline_parallel_size", 1)
            assert ranks == row.plan.layout.gpus, row.case.name


def test_the_page_is_current() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
