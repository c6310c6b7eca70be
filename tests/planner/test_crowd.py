"""Who has been given how much, when every node reads at the same time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.assumptions import assumed, assumptions
from planner import load_and_plan
from planner.cache import Crowd, Reader, into_gpus
from tests.factories import model_of, stack_plan
from tests.stacks import changed

HARDWARE = stack_plan("prod").pools[0].hardware
READER = Reader(gigabytes=1, nodes=1, ranks=8, hardware=HARDWARE)

readers = st.lists(
    st.builds(
        lambda size, nodes: replace(READER, gigabytes=size, nodes=nodes),
        st.sampled_from([0.5, 16.1, 141.1, 688.6]),
        st.integers(1, 9),
    ),
    max_size=8,
)


@given(readers, st.sampled_from([0.1, 0.5, 16.1, 100.0, 688.6, 900.0]))
def test_each_reader_is_given_its_bytes_or_as_many_as_we_have(crowd, own):
    asked = sum(reader.nodes * min(reader.gigabytes, own) for reader in crowd)
    assert Crowd(crowd).served_gigabytes(own) == pytest.approx(asked)
    assert Crowd(crowd).nodes == sum(reader.nodes for reader in crowd)


@pytest.mark.parametrize(
    ("ranks", "name"),
    [(1, "1_rank"), (2, "2_ranks"), (3, "2_ranks"), (4, "4_ranks"), (6, "4_ranks"), (8, "8_ranks"), (16, "8_ranks")],
)
def test_ranks_between_those_measured_count_as_the_fewer(ranks: int, name: str) -> None:
    assert into_gpus(ranks) == f"into_gpus_mb_per_s_{name}"
    assert into_gpus(ranks) in assumptions()


def test_a_file_system_faster_than_the_ranks_does_not_load_faster(tmp_path: Path) -> None:
    fast = {"cache.storage_gib": 96000, "cache.throughput_mbps_per_tib": 1000}
    plan = load_and_plan(changed(tmp_path, "prod", fast, removed=("budget",)))[1]
    load = model_of(plan, "deepseek-r1").weights.load
    assert load.bottleneck == "copy from a node's memory into its GPUs"
    assert load.seconds == pytest.approx(
        load.gigabytes_per_node * 1000 / assumed("into_gpus_mb_per_s_8_ranks"), abs=0.1
    )
