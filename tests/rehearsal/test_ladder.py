"""The capacity ladder rehearsed: rungs run out, groups stay whole, and nothing is left."""

from __future__ import annotations

from collections import Counter

import pytest

from rehearsal.report import Report
from rehearsal.run import RehearsalOptions, rehearse
from tests.factories import ROOT, example_plan

pytestmark = pytest.mark.control_plane

STACK = ROOT / "examples" / "capacity-ladder" / "Pulumi.ladder.yaml"
BLOCK, RESERVED, SPOT, DEMAND = "h100-block-9abcde01", "h100-reserved-9abcde02", "h100-spot", "h100-on-demand"


def rehearsed(capacity: dict[str, int], *, climb: bool = False) -> Report:
    # The keeper gives a boot half as long again; less compression leaves a busy machine time for everything else.
    options = RehearsalOptions(capacity=capacity, climb=climb, compression=60.0 if climb else 120.0)
    return rehearse(STACK, options)


def rungs_of(report: Report, model: str) -> Counter[str | None]:
    """Pods of a model by rung."""
    return Counter(pod.rung for pod in report.pods if pod.gpus and pod.name.startswith(f"{model}-"))


def told(report: Report, reason: str) -> list[str]:
    return [note for note in report.notes if note.startswith(f"ladder keeper: {reason}: ")]


def test_all_three_pools_start_on_their_best_rung_and_are_destroyed_without_a_trace() -> None:
    report = rehearsed({})
    assert [str(finding) for finding in report.findings] == []
    plan = example_plan("capacity-ladder")
    for model in plan.models:
        best = plan.pool(model.pool).rungs[0].name
        assert rungs_of(report, model.name) == {best: model.layout.nodes}
    assert not told(report, "GaveUpRung")


def test_an_exhausted_rung_makes_the_next_take_over_with_either_provisioner() -> None:
    report = rehearsed({BLOCK: 0, RESERVED: 0, "a100-block-9abcde03": 0, "h200-block-9abcde05": 0})
    assert [str(finding) for finding in report.findings] == []
    assert all(model.ready for model in report.models)
    assert rungs_of(report, "deepseek-r1") == {SPOT: 2}
    assert rungs_of(report, "r1-distill-70b") == {"a100-reserved-9abcde04": 1}
    assert rungs_of(report, "r1-h200") == {"h200-reserved-9abcde06": 1}
    assert not told(report, "GaveUpRung"), "nobody ever had half of its nodes"


def test_one_of_two_nodes_on_the_first_rung_ends_with_the_group_whole_on_the_second() -> None:
    report = rehearsed({BLOCK: 1})
    assert [str(finding) for finding in report.findings] == []
    assert rungs_of(report, "deepseek-r1") == {RESERVED: 2}
    assert told(report, "GaveUpRung") == [
        f"ladder keeper: GaveUpRung: inference/deepseek-r1/0: {BLOCK} gave 1 of 2 nodes: the group leaves it whole"
    ]


def test_a_ladder_of_half_rungs_is_climbed_down_to_the_one_that_holds_the_group() -> None:
    report = rehearsed({BLOCK: 1, RESERVED: 1, SPOT: 0})
    assert [str(finding) for finding in report.findings] == []
    assert rungs_of(report, "deepseek-r1") == {DEMAND: 2}
    assert len(told(report, "GaveUpRung")) == 1, "told once in ten minutes"


def test_in_an_open_window_groups_climb_back_one_after_the_other() -> None:
    report = rehearsed({BLOCK: 0, "a100-block-9abcde03": 0}, climb=True)
    assert [str(finding) for finding in report.findings] == []
    assert rungs_of(report, "deepseek-r1") == {RESERVED: 2}, "as it was before capacity came"
    for group in ("deepseek-r1/0", "r1-distill-70b/"):
        assert any(group in note for note in told(report, "ClimbStarted")), report.notes
        assert any(group in note for note in told(report, "ClimbDone")), report.notes
