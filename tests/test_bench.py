"""The benchmarks: generated stack files that plan, numbers that are measured, limits that can be missed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench.__main__ as command
from bench import child, suite
from bench.generate import MODELS_PER_POOL, busy_stack_file, stack_file, trace_file
from bench.measure import BenchError, machine, run
from bench.size import searched
from catalog.load import load
from planner import load_and_plan

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("models", [1, 9, 100, 400])
def test_generated_stack_files_plan(tmp_path, models):
    plan = load_and_plan(stack_file(models, tmp_path))[1]
    assert len(plan.models) == models
    assert len(plan.pools) == -(-models // MODELS_PER_POOL)
    if models >= 100:
        assert {model.runtime for model in plan.models} == {"deployment", "leader_worker_set", "ray_service"}


def test_a_process_is_measured(tmp_path):
    sample = run([sys.executable, "-c", "x = bytearray(64 * 2**20); print(len(x)); sum(range(10**6))"], tmp_path)
    assert sample.output.strip() == str(64 * 2**20)
    assert sample.peak_mib > 64
    assert sample.cpu_seconds > 0
    assert sample.wall_seconds > 0


def test_a_failing_process_is_told_with_its_last_words(tmp_path):
    with pytest.raises(BenchError, match="ended with 3\nno such thing"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('no such thing'); sys.exit(3)"], tmp_path)


def test_planning_is_measured_without_the_sdks(tmp_path):
    """The time of `plan` would otherwise be that of importing Pulumi."""
    path = stack_file(1, tmp_path)
    code = f"import sys; from bench.child import main; from pathlib import Path; main('plan', Path({str(path)!r})); "
    code += "assert not {'pulumi', 'kubernetes', 'boto3'} & set(sys.modules)"
    said = json.loads(run([sys.executable, "-c", code], ROOT).output)
    assert said["models"] == 1
    assert said["plan_seconds"] >= said["plan_cpu_seconds"] * 0.5 > 0


def test_building_counts_what_the_program_declares(tmp_path):
    small = load_and_plan(stack_file(1, tmp_path))[1]
    two = load_and_plan(stack_file(2, tmp_path))[1]
    fewer, seconds = child.build_seconds(small)
    more, _ = child.build_seconds(two)
    assert seconds > 0
    assert more > fewer > 50


def result(**changes) -> suite.Result:
    return replace(suite.Result(name="x", value=1.0, unit="s", limit=2.0), **changes)


def test_a_limit_is_kept_or_missed():
    assert result().kept
    assert not result(value=2.1).kept
    assert result(value=99, limit=None).kept


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (3.0, 1)])
def test_the_exit_code_tells_of_missed_limits(monkeypatch, value, code):
    for part in ("verb", "planning", "capacities", "sizing", "building", "simulating"):
        monkeypatch.setattr(suite, part, lambda *_: [result(value=value)])
    monkeypatch.setattr(command, "machine", machine)
    app = command.typer.Typer()
    app.command()(command.bench)
    answer = CliRunner().invoke(app, ["--json"])
    assert answer.exit_code == code
    said = json.loads(answer.stdout)
    assert said["ok"] is (code == 0)
    assert said["machine"]["cores"] >= 1
    assert [item["value"] for item in said["results"]] == [value] * 6


def test_sizes_are_searched():
    few, all_of_them = searched(20, load()), searched(10, load())
    assert 0 < few["models"] < all_of_them["models"]
    assert 0 < few["options"] < all_of_them["options"]
    assert all_of_them["unserved"] == 0
    assert few["cpu_seconds"] > 0


def test_days_and_traces_are_replayed(tmp_path):
    path = busy_stack_file(tmp_path)
    trace = trace_file(3000, tmp_path)
    said = child.replayed(path, trace=trace)
    assert said["requests"] == 3000
    assert said["seconds"] > said["read_seconds"] > 0
    day = child.replayed(path, per_day=5000)
    assert day["requests"] == pytest.approx(5000, rel=0.1)
    assert day["served"] > 0
