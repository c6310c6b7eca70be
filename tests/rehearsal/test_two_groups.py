"""Pods that hand their KV cache on take their share of a node's EFA devices."""

from __future__ import annotations

import pytest

from planner.naming import MODEL_LABEL
from rehearsal.checks.groups import same_devices
from rehearsal.nodes import EFA, GPU
from rehearsal.snapshot import Snapshot
from tests.factories import example_plan
from tests.rehearsal.fakes import container, pod


@pytest.mark.parametrize(("devices", "found"), [("16", []), ("0", ["0 EFA devices"]), ("32", ["32 EFA devices"])])
def test_a_group_of_half_a_node_takes_half_of_its_devices(devices: str, found: list[str]) -> None:
    limits = {GPU: "4", EFA: devices, "hugepages-2Mi": "5120Mi"}
    labels = {MODEL_LABEL: "llama-70b-prefill"}
    one = pod("p", labels=labels, containers=[container(resources={"limits": limits})])
    told = [finding.problem for finding in same_devices(Snapshot({"Pod": [one]}), example_plan("disaggregated"))]
    assert len(told) == len(found)
    assert all(words in problem for words, problem in zip(found, told, strict=True))
