"""Who has been given how much, when every node reads at the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cache import Crowd, Reader
from tests.factories import stack_plan

HARDWARE = stack_plan("prod").pools[0].hardware
READER = Reader(gigabytes=1, nodes=1, hardware=HARDWARE)

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
