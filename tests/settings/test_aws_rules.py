"""Rules of AWS, each broken once: one problem, with its place, the reason and the way out. See catalog/rules.yaml."""

from __future__ import annotations

import re

import pytest

from catalog.rules import Rule, rules
from catalog.tools.rules import PAGE, page
from planner import StackFileError, load_and_plan
from tests.stacks import changed, stack_path

RULES = rules()


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_a_stack_file_that_breaks_one_rule_is_refused_for_that_alone(tmp_path, rule: Rule):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, rule.stack, rule.change))
    (problem,) = caught.value.problems
    assert problem.dotted() == rule.path
    assert rule.says in f"{problem.message} {problem.help or ''}"
    assert problem.position is not None
    told = str(caught.value)
    assert re.search(rf"Pulumi\.{rule.stack}\.yaml:{problem.position.line}:\d+", told), told
    if rule.id != "block-size":  # a plain limit of a number says it all
        assert problem.help, "says how to mend it"


@pytest.mark.parametrize("stack", sorted({rule.stack for rule in RULES}))
def test_the_file_itself_keeps_every_rule(stack):
    assert load_and_plan(stack_path(stack))


def test_there_are_rules_enough_and_each_has_its_own_name():
    assert len({rule.id for rule in RULES}) == len(RULES) >= 25
    assert all(rule.source and rule.why for rule in RULES)


def test_the_page_is_of_this_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m catalog.tools.rules`"
