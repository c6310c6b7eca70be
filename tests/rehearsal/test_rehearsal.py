"""Whole rehearsals on the real control plane."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rehearsal.injections import INJECTIONS
from rehearsal.report import Report
from rehearsal.run import RehearsalOptions, rehearse
from tests.factories import ROOT, stack_plan

pytestmark = pytest.mark.control_plane

# The smallest stack that a fault can break. Faults that show in a failure alone have their tests with the scenarios.
_STACK_OF = {"efa-on-tcp": "prod", "checksum": "staging"}


def rehearsed(stack: str, options: RehearsalOptions | None = None) -> Report:
    return rehearse(ROOT / f"Pulumi.{stack}.yaml", options or RehearsalOptions())


@pytest.fixture(scope="module")
def report() -> Report:
    return rehearsed("prod")


class TestProd:
    def test_nothing_is_found(self, report: Report) -> None:
        assert [str(finding) for finding in report.findings] == []
        assert report.exit_code == 0

    def test_every_model_is_ready_on_its_pool(self, report: Report) -> None:
        plan = stack_plan("prod")
        assert all(model.ready for model in report.models)
        for model in plan.models:
            rungs = {rung.name for rung in plan.pool(model.pool).rungs}
            mine = [pod for pod in report.pods if pod.name.startswith(model.name) and pod.gpus]
            assert len(mine) == model.scaling.min_replicas * model.layout.nodes
            assert {pod.rung for pod in mine} <= rungs

    def test_both_pods_of_r1_share_a_rung_and_no_node(self, report: Report) -> None:
        pods = [pod for pod in report.pods if pod.name.startswith("deepseek-r1-") and pod.gpus]
        assert len(pods) == 2
        assert len({pod.rung for pod in pods}) == 1
        assert len({pod.node for pod in pods}) == 2

    def test_gpus_given_are_gpus_asked(self, report: Report) -> None:
        assert [(use.pool, use.gpus_given) for use in report.pools] == [
            (use.pool, use.gpus_asked) for use in report.pools
        ]

    def test_keda_has_made_the_autoscalers(self, report: Report) -> None:
        scaled = [model for model in stack_plan("prod").models if model.scaling.owner == "keda"]
        assert len(report.autoscalers) == len(scaled) > 0

    def test_a_workload_was_scaled_before_the_second_run(self, report: Report) -> None:
        assert any("scaled by hand" in note for note in report.notes)
        assert "second run" in {phase.name for phase in report.phases}


@pytest.mark.parametrize("name", [name for name, fault in INJECTIONS.items() if "scenario" not in fault.found_by])
def test_every_fault_shows(name: str) -> None:
    report = rehearsed(_STACK_OF.get(name, "dev"), RehearsalOptions(inject=name))
    assert report.exit_code == 1
    assert not [finding for finding in report.findings if finding.check in {"injection", "leftover", "destroy"}]
    assert {finding.check for finding in report.findings} & set(INJECTIONS[name].found_by)


def test_models_wait_for_capacity_and_serve_when_it_comes() -> None:
    """`up` ends well without a single GPU; the report tells who waits for what."""
    rungs = [rung.name for pool in stack_plan("staging").pools for rung in pool.rungs]
    options = RehearsalOptions(capacity=dict.fromkeys(rungs, 0))
    report = rehearsed("staging", options)
    assert report.findings == ()
    (model,) = report.models
    assert not model.ready
    assert all(rung in " ".join(model.waits_for) for rung in rungs)
    assert any("when capacity came" in note for note in report.notes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_rehearsal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "rehearse", "--stack", "dev"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("up ..."):
            break
    time.sleep(2)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) not in {0, 1}, "".join(seen)
    assert "Traceback" not in rest
    until = time.monotonic() + 10
    while (running := _processes_of(tmp_path)) and time.monotonic() < until:
        time.sleep(0.2)
    assert running == []
    assert list(tmp_path.glob("rehearsal-*")) == []


def _processes_of(folder: Path) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if str(folder) in line]
