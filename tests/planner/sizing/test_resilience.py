"""Availability against its definition, and what more nodes do to it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.load import load
from planner.sizing.resilience import availability, nines, risk_of, surviving_share

CATALOG = load()
CARD = CATALOG.models["meta-llama/Llama-3.1-70B-Instruct"]
units = st.integers(0, 12)
needed = st.floats(0.05, 10)


def risk(nodes=1, instance="p5.48xlarge", region="us-east-1"):
    return risk_of(CARD, CATALOG.instances[instance], region, nodes)


@pytest.mark.parametrize(
    ("on_demand", "spot", "load"), [(2, 0, 1.5), (3, 0, 3.0), (2, 2, 2.5), (0, 3, 2.0), (1, 4, 3.3)]
)
def test_it_is_the_mean_over_all_states(on_demand, spot, load):
    """Every unit up or down, and the market open or closed: summed one by one."""
    at = risk()
    total = 0.0
    for market in (False, True):
        chance_of_market = at.reclaimed if market and spot else 0.0 if market else 1 - (at.reclaimed if spot else 0.0)
        for states in itertools.product([True, False], repeat=on_demand + spot):
            chance = chance_of_market
            for up in states:
                chance *= (1 - at.failed) if up else at.failed
            total += chance * min(1.0, (sum(states[:on_demand]) if market else sum(states)) / load)
    assert availability(at, on_demand=on_demand, spot=spot, needed=load) == pytest.approx(total, abs=2e-6)


@settings(deadline=None)
@given(on_demand=units, spot=units, load=needed)
def test_it_is_a_share(on_demand, spot, load):
    found = availability(risk(), on_demand=on_demand, spot=spot, needed=load)
    assert 0 <= found <= 1 + 1e-12


@settings(deadline=None)
@given(on_demand=st.integers(1, 12), spot=units, load=needed)
def test_another_unit_on_demand_never_hurts(on_demand, spot, load):
    one = availability(risk(), on_demand=on_demand, spot=spot, needed=load)
    assert availability(risk(), on_demand=on_demand + 1, spot=spot, needed=load) >= one - 1e-9


@settings(deadline=None)
@given(on_demand=units, spot=st.integers(1, 12), load=needed)
def test_spot_is_never_safer_than_on_demand(on_demand, spot, load):
    mixed = availability(risk(), on_demand=on_demand, spot=spot, needed=load)
    assert mixed <= availability(risk(), on_demand=on_demand + spot, spot=0, needed=load) + 1e-12


def test_a_replica_over_more_nodes_fails_more_often():
    assert risk(nodes=2).failed > risk(nodes=1).failed
    assert risk(nodes=2).useful_factor(spot=True) > risk(nodes=1).useful_factor(spot=True) > 1


def test_a_calmer_region_is_told_apart():
    """p5 on spot: above 20 % a month in us-east-1, below 5 % in eu-north-1 (catalog/interruptions.yaml)."""
    assert risk(region="eu-north-1").reclaimed < risk(region="us-east-1").reclaimed


def test_what_survives_one_node():
    assert surviving_share(units=3, lost=1, needed=2.0) == 1
    assert surviving_share(units=2, lost=1, needed=1.5) == pytest.approx(1 / 1.5)
    assert surviving_share(units=1, lost=1, needed=0.5) == 0


def test_nines():
    assert nines(0.999) == pytest.approx(3)
    assert nines(1.0) == 6
    assert nines(0.0) == 0
