"""Engines: their metrics and health as Prometheus and probes need them."""

from __future__ import annotations

import dataclasses
import re

import pytest

from catalog import Catalog

PREFIX = {"vllm": "vllm:", "sglang": "sglang:", "ray-llm": "ray_vllm_"}


@pytest.mark.parametrize("engine", PREFIX)
def test_metric_names_are_valid_and_of_the_engine(engine: str, catalog: Catalog) -> None:
    metrics = catalog.engines[engine].metrics
    for field in dataclasses.fields(metrics):
        name = getattr(metrics, field.name)
        if name is None or field.name == "model_label":
            continue
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+=\"[a-z]+\"\})?", name), field.name
        assert name.startswith(PREFIX[engine]), field.name
        if field.name.endswith("_histogram"):
            # SGLang counts transfers in milliseconds; who asks looks at the name.
            units = ("_seconds", "_ms") if field.name == "kv_transfer_histogram" else ("_seconds",)
            assert name.endswith(units), field.name


def test_counters_carry_their_suffix(catalog: Catalog) -> None:
    counters = ("prompt_tokens", "generation_tokens", "requests", "errors", "rejections", "preemptions")
    for engine in catalog.engines.values():
        for field in counters:
            name = getattr(engine.metrics, field)
            assert name is None or name.partition("{")[0].endswith("_total"), (engine.name, field)


def test_ray_renames_the_metrics_of_vllm(catalog: Catalog) -> None:
    vllm, ray = catalog.engines["vllm"].metrics, catalog.engines["ray-llm"].metrics
    for field in dataclasses.fields(vllm):
        ours, theirs = getattr(ray, field.name), getattr(vllm, field.name)
        if ours is not None and field.name != "model_label":
            assert ours == f"ray_{theirs.replace(':', '_', 1)}", field.name


def test_removed_metric_names_are_not_used(catalog: Catalog) -> None:
    removed = {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds", "vllm:num_requests_swapped"}
    for engine in catalog.engines.values():
        assert removed.isdisjoint(getattr(engine.metrics, f.name) for f in dataclasses.fields(engine.metrics))


def test_ports_and_commands(catalog: Catalog) -> None:
    engines = catalog.engines
    # One port for all: a model that changes its engine keeps its endpoint, and `preview` can dry-run the change.
    assert {engine.port for engine in engines.values()} == {8000}
    assert {name: e.metrics_port for name, e in engines.items()} == {"vllm": 8000, "sglang": 8000, "ray-llm": 8080}
    assert engines["vllm"].command == ("vllm", "serve")
    assert engines["sglang"].command == ("python3", "-m", "sglang.launch_server")


def test_a_probe_outlasts_the_generation_that_sglang_runs_for_it(catalog: Catalog) -> None:
    assert catalog.engines["sglang"].health.timeout_seconds > 20
