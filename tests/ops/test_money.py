"""`cost`, `check` and `plan --explain` as a person runs them; the preview refuses what `check` refuses."""

from __future__ import annotations

import json
import runpy
from datetime import date
from pathlib import Path

import pytest

import ops.cost
from ops.__main__ import main
from ops.explain import shown
from tests.harness import deploy
from tests.stacks import PLATFORM, changed, document

ROOT = Path(__file__).resolve().parents[2]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    """prod with too small a budget."""
    return changed(tmp_path, "prod", {"budget.monthly_usd": 250_000})


def test_check_fails_over_budget_with_the_line_and_the_change_that_fits(poor, capsys):
    assert main(["check", "--stack", str(poor)]) == 2
    told = words(capsys.readouterr().err)
    line = next(n for n, text in enumerate(poor.read_text().splitlines(), 1) if "monthly_usd" in text)
    assert f"Pulumi.prod.yaml:{line}:" in told
    assert "the largest part is Pool h100" in told
    assert "lower `pools[0].capacity[2].nodes.max` from 2 to 1" in told
    assert "Traceback" not in told


def test_the_preview_fails_over_budget():
    data = document("prod")["config"]
    data[PLATFORM]["budget"]["monthly_usd"] = 250_000
    config = {PLATFORM: json.dumps(data[PLATFORM]), "aws:region": data["aws:region"]}
    run = lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")  # noqa: E731
    with pytest.raises(Exception, match="above 250,000"):
        deploy(run, preview=True, stack="prod", config=config)


def test_cost_tells_hours_tokens_and_availability(capsys):
    assert main(["cost", "--stack", "staging"]) == 0
    told = words(capsys.readouterr().out)
    for part in ("planned $/h", "$ a useful hour", "Tokens: $ a million", "Availability of GPUs", "worst month"):
        assert part in told, part


def test_cost_in_json_has_formulas_and_sources(capsys):
    assert main(["cost", "--stack", "staging", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert all(line["formula"] and line["source"] and line["inputs"] for line in cost["lines"])
    assert cost["tokens"][0]["output_usd_per_million"] > cost["tokens"][0]["input_usd_per_million"] > 0


@pytest.mark.parametrize("day", [date(2026, 11, 2), date(2031, 1, 1)])
def test_old_prices_are_told_by_plan_cost_and_check(day, capsys, monkeypatch):
    monkeypatch.setattr(ops.cost, "today", lambda: day)
    for verb in ("plan", "cost", "check"):
        assert main([verb, "--stack", "staging"]) == 0
        assert "prices refresh --region us-east-1" in words(capsys.readouterr().out), verb


def test_fresh_prices_are_not_told(capsys, monkeypatch):
    monkeypatch.setattr(ops.cost, "today", lambda: date(2026, 2, 1))
    assert main(["check", "--stack", "staging"]) == 0
    assert "prices refresh" not in capsys.readouterr().out


def test_explain_prints_every_number_with_formula_and_whole_sources(capsys):
    for subject in ("r1-distill-70b", "cost"):
        assert main(["plan", "--stack", "staging", "--explain", subject]) == 0
        told = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("    = ") for line in told) >= 20, subject
        # Decisions in words come first. Then each number: two spaces, its formula with four, inputs with six, each with
        # its source in brackets.
        first = next(index for index, line in enumerate(told) if line.startswith("    = ")) - 1
        for index, line in enumerate(told[first:], start=first):
            if line.startswith("      "):
                assert line.rstrip().endswith(")"), line
                assert "(" in line
            elif line.startswith("  ") and not line.startswith("    ") and ": " in line and index:
                assert told[index + 1].startswith("    = "), line
                assert told[index + 2].startswith("      "), line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99982, "0.999820"), (1 - 2.3e-8, "0.999999977"), (1.0, "1"), (0.25, "0.25")],
)
def test_a_share_below_one_never_reads_as_one(value, text):
    assert shown(value) == text


def test_explain_of_money_where_none_is_spent_says_so(capsys):
    assert main(["plan", "--stack", "local", "--explain", "cost"]) == 0
    assert "nothing of stack local bills here" in capsys.readouterr().out


def test_explain_in_json(capsys):
    assert main(["plan", "--stack", "staging", "--explain", "cost", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]
    assert {number["section"] for number in numbers} == {"cost", "totals"}
    assert all(number["formula"] and number["inputs"] for number in numbers)


def test_explain_of_something_unknown_says_what_there_is(capsys):
    assert main(["plan", "--stack", "staging", "--explain", "nobody"]) == 2
    assert "it has r1-distill-70b, cost" in capsys.readouterr().err
