"""What DCGM exports, and that dashboards and alerts ask for nothing else."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from components.gpu import METRICS, metrics_csv
from components.observability.dashboard import dashboard
from tests.factories import STACKS, stack_plan

FIELD = re.compile(r"DCGM_[A-Z0-9_]+")


def test_the_list_is_what_the_exporter_parses() -> None:
    rows = list(csv.reader(io.StringIO(metrics_csv()), skipinitialspace=True))
    assert [len(row) for row in rows] == [3] * len(METRICS), "a comma in a help text"
    assert {row[1] for row in rows} <= {"gauge", "counter", "label"}
    assert len({row[0] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "field", ["DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_DEV_ROW_REMAP_FAILURE"]
)
def test_what_operators_look_for_first_is_there(field: str) -> None:
    assert field in {name for name, _, _ in METRICS}


@pytest.mark.parametrize("stack", STACKS)
def test_dashboards_and_alerts_ask_for_exported_fields_only(stack: str) -> None:
    plan = stack_plan(stack)
    asked = set(FIELD.findall(json.dumps(dashboard(plan))))
    for alert in plan.observability.alerts:
        asked |= set(FIELD.findall(alert.expression))
    assert asked
    assert asked <= {name for name, _, _ in METRICS}
