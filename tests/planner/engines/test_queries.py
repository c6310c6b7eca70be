"""The generated PromQL on series as the engines export them, evaluated by Prometheus' own `promtool`.

Labels are those of the pinned versions: vLLM's `engine` (a data parallel rank); SGLang's `pp_rank`, `tp_rank` and
`dp_rank`, of attention rank 0 of each group and stage; Ray's `ReplicaId` and `WorkerId` beside vLLM's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.plan import ModelPlan, Plan
from planner.scaling import ACTIVATOR_PEAK
from tests.factories import example_plan, model_of, stack_plan
from tests.router.plans import SMALL, planned

TOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
MINUTES = 10
GROUPS, VLLM = "deepseek-r1", "r1-distill-70b"


@pytest.fixture(autouse=True)
def _needs_promtool() -> None:
    if TOOL is None and not os.environ.get("PROMTOOL_REQUIRED"):
        pytest.skip("promtool is not on PATH (apt-get install prometheus)")
    assert TOOL is not None, "PROMTOOL_REQUIRED is set, and promtool is not on PATH"


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """What Prometheus has of one rank of one pod."""

    labels: Mapping[str, str]
    running: int = 0
    waiting: int = 0
    kv: float = 0.0
    fast: int = 0
    """Requests a minute whose first token came within half a second."""
    slow: int = 0
    """And within 10 s, more than 7.5."""


def series(model: ModelPlan, scrapes: list[Scrape]) -> list[dict[str, str]]:
    """As promtool takes them, one value a minute."""
    names = model.metrics
    found: list[dict[str, str]] = []

    def add(name: str, labels: Mapping[str, str], values: str) -> None:
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        found.append({"series": f"{name}{{{inside}}}", "values": values})

    for scrape in scrapes:
        labels = {"namespace": model.namespace, names.model_label: model.name, **scrape.labels}
        for name, value in (
            (names.running, scrape.running),
            (names.waiting, scrape.waiting),
            (names.kv_usage, scrape.kv),
        ):
            add(name, labels, f"{value}x{MINUTES}")
        request = {key: value for key, value in labels.items() if not key.endswith("_rank")}
        for bound, rate in (
            ("0.5", scrape.fast),
            ("7.5", scrape.fast),
            ("10", scrape.fast + scrape.slow),
            ("+Inf", scrape.fast + scrape.slow),
        ):
            add(f"{names.ttft_histogram}_bucket", {**request, "le": bound}, f"0+{rate}x{MINUTES}")
    # A neighbour on the same nodes.
    add(names.running, {"namespace": model.namespace, names.model_label: "other"}, f"999x{MINUTES}")
    add(names.waiting, {"namespace": "elsewhere", names.model_label: model.name}, f"999x{MINUTES}")
    return found


def hold(folder: Path, given: list[dict[str, str]], expected: Mapping[str, float | None]) -> None:
    """Asserts that each query answers its one value at the end; None: nothing at all."""
    cases: list[dict[str, Any]] = [
        {
            "expr": query,
            "eval_time": f"{MINUTES}m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for query, value in expected.items()
    ]
    document = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": cases}],
    }
    file = folder / "queries.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run([str(TOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def triggers(model: ModelPlan) -> dict[str, str]:
    return {trigger.name: trigger.query for trigger in model.scaling.triggers}


def test_vllm_sums_pods_and_their_data_parallel_engines(tmp_path: Path) -> None:
    model = model_of(stack_plan("prod"), VLLM)
    asked = triggers(model)
    scrapes = [
        Scrape(labels={"pod": pod, "engine": engine}, running=20, waiting=3, kv=kv, fast=60)
        for pod, engine, kv in (("a", "0", 0.5), ("a", "1", 0.75), ("b", "0", 1.0))
    ]
    hold(
        tmp_path,
        series(model, scrapes),
        {asked["concurrency"]: 69, asked["queue"]: 9, asked["kv"]: 0.75, asked["ttft"]: 0},
    )


def test_sglang_counts_each_attention_group_once_and_no_later_stage(tmp_path: Path) -> None:
    """Two groups of two nodes, attention in two data parallel groups: its second lives on the worker."""
    model = model_of(stack_plan("prod"), GROUPS)
    asked = triggers(model)
    scrapes = [
        Scrape(
            labels={"pod": pod, "pp_rank": "0", "tp_rank": tp, "dp_rank": dp, "moe_ep_rank": "0"},
            running=10,
            waiting=1,
            kv=0.5,
        )
        for group in ("r1-0", "r1-1")
        for pod, tp, dp in ((group, "0", "0"), (f"{group}-1", "8", "1"))
    ]
    later = Scrape(
        labels={"pod": "r1-0-1", "pp_rank": "1", "tp_rank": "0", "moe_ep_rank": "0"}, running=10, waiting=1, kv=1
    )
    # With `--enable-priority-scheduling`, beside the sum.
    one = Scrape(labels={**scrapes[0].labels, "priority": "5"}, running=10, waiting=1)
    expected = {asked["concurrency"]: 44, asked["queue"]: 4, asked["kv"]: 0.5}
    hold(tmp_path, series(model, [*scrapes, later, one]), expected)


def test_prefill_counts_the_mean_of_what_its_pods_had_at_each_moment(tmp_path: Path) -> None:
    model = model_of(example_plan("disaggregated"), "llama-70b-prefill")
    asked = triggers(model)
    scrapes = [
        Scrape(labels={"pod": pod, "engine": "0"}, running=running, waiting=1) for pod, running in (("a", 2), ("b", 1))
    ]
    hold(tmp_path, series(model, scrapes), {asked["concurrency"]: 5, asked["queue"]: 2})
    given = series(model, scrapes)
    for one in given:
        if "other" not in one["series"] and one["series"].startswith(f"{model.metrics.running}{{"):
            one["values"] = f"0x{MINUTES - 1} 9x1"  # a look that happens to see many
    hold(tmp_path, given, {f"{asked['concurrency']} < bool 8": 1})
    hold(tmp_path, [], {asked["concurrency"]: None})


def test_late_answers_count_twice_the_objective_at_most_and_nothing_within_it(tmp_path: Path) -> None:
    model = model_of(stack_plan("prod"), VLLM)
    (trigger,) = [t for t in model.scaling.triggers if t.name == "ttft"]
    objective = float(trigger.threshold) * 1.1
    late = Scrape(labels={"pod": "a", "engine": "0"}, fast=90, slow=10)
    hold(tmp_path, series(model, [late]), {f"round({trigger.query}, 0.01)": round(2 * objective, 2)})
    # No traffic at all: 0, neither NaN nor nothing.
    hold(tmp_path, series(model, [Scrape(labels={"pod": "a", "engine": "0"})]), {trigger.query: 0})
    hold(tmp_path, [], {trigger.query: 0})


def test_a_model_that_is_gone_asks_for_nothing_and_one_that_should_be_there_gives_no_answer(tmp_path: Path) -> None:
    """No answer is an error to KEDA, whose fallback then holds the replicas."""
    gone = triggers(model_of(planned(replicas={"min": 0, "max": 4}), SMALL))
    hold(tmp_path, [], {gone[name]: 0 for name in ("concurrency", "queue", "kv", "ttft")} | {gone["router"]: None})
    there = triggers(model_of(stack_plan("prod"), VLLM))
    hold(tmp_path, [], dict.fromkeys((there[name] for name in ("concurrency", "queue", "kv")), None))


def test_what_the_routers_hold_adds_up(tmp_path: Path) -> None:
    model = model_of(planned(replicas={"min": 0, "max": 4}), SMALL)
    given = [
        {
            "series": f'{ACTIVATOR_PEAK}{{namespace="{namespace}",model="{name}",pod="{pod}"}}',
            "values": f"{value}x{MINUTES}",
        }
        for namespace, name, pod, value in (
            (model.namespace, SMALL, "a", 3),
            (model.namespace, SMALL, "b", 4),
            (model.namespace, "other", "a", 50),
        )
    ]
    hold(tmp_path, given, {triggers(model)["router"]: 7})


def ray() -> Plan:
    return planned(VLLM, runtime="ray_service", without=("autoscaling",))


def test_alerts_read_what_ray_makes_of_vllms_metrics(tmp_path: Path) -> None:
    plan = ray()
    model = model_of(plan, VLLM)
    assert model.metrics.running == "ray_vllm_num_requests_running"
    alerts = {a.name: a.expression for a in plan.observability.alerts if a.model == VLLM}
    scrapes = [
        Scrape(
            labels={"pod": f"worker-{n}", "engine": "0", "ReplicaId": f"r{n}", "WorkerId": f"w{n}", "SessionName": "s"},
            running=20,
            waiting=40,
            kv=0.97,
            fast=50,
            slow=50,
        )
        for n in (1, 2, 3)
    ]
    given = series(model, scrapes)
    told = {"QueueBacklog": 120, "KvCacheHigh": 97, "ModelNotServing": None}
    hold(tmp_path, given, {f"round({alerts[name]})" if value else alerts[name]: value for name, value in told.items()})
    hold(tmp_path, given, {f"count({alerts['TimeToFirstTokenHighCritical']})": 1})
    quiet = series(model, [Scrape(labels={"pod": "worker-1", "engine": "0", "ReplicaId": "r1"}, running=1, fast=10)])
    hold(
        tmp_path,
        quiet,
        dict.fromkeys((alerts[name] for name in ("QueueBacklog", "KvCacheHigh", "TimeToFirstTokenHighCritical")), None),
    )
