"""The front of anything: properties that hold whatever the options are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.sizing.pareto import dominates, pareto

# Few different values, so that equal vectors and dominations come up often.
number = st.integers(0, 4).map(float)
options = st.lists(st.tuples(number, number, number), max_size=40)


def front(items):
    """Of (position, vector) pairs; the position breaks ties."""
    return pareto(list(enumerate(items)), vector=lambda item: item[1], tie=lambda item: (item[0],))


@settings(deadline=None)
@given(items=options)
def test_no_member_is_dominated_and_every_other_option_names_one_that_is_no_worse(items):
    found = front(items)
    vectors = [vector for _, vector in found.members]
    assert not any(dominates(one, other) for one in vectors for other in vectors)
    assert len(set(vectors)) == len(vectors)
    for (_, vector), by in found.dominated:
        assert dominates(vectors[by], vector) or vectors[by] == vector


@settings(deadline=None)
@given(items=options)
def test_every_option_is_in_exactly_one_part(items):
    found = front(items)
    positions = [at for at, _ in found.members] + [at for (at, _), _ in found.dominated]
    assert sorted(positions) == list(range(len(items)))


@settings(deadline=None)
@given(items=options)
def test_it_is_the_front_by_definition(items):
    """Against the quadratic definition, which is too slow to be used."""
    expected = {one for one in items if not any(dominates(other, one) for other in items)}
    assert {vector for _, vector in front(items).members} == expected


@settings(deadline=None)
@given(items=options, extra=st.tuples(number, number, number))
def test_one_more_option_removes_a_member_only_by_being_no_worse(items, extra):
    before = {vector for _, vector in front(items).members}
    after = {vector for _, vector in front([*items, extra]).members}
    for gone in before - after:
        assert dominates(extra, gone)
    assert after <= before | {extra}


@settings(deadline=None)
@given(items=options)
def test_the_order_of_the_options_does_not_matter(items):
    assert [vector for _, vector in front(items).members] == [vector for _, vector in front(items[::-1]).members]


def test_of_equals_the_lowest_tie_stays():
    found = pareto(["b", "a", "c"], vector=lambda _: (1.0,), tie=lambda name: (name,))
    assert found.members == ("a",)
    assert sorted(found.dominated) == [("b", 0), ("c", 0)]


def test_nothing_has_an_empty_front():
    assert front([]).members == ()
