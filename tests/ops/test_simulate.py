"""The verb `simulate`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys

import pytest
import yaml

from ops.__main__ import main

QUICK = ["simulate", "--stack", "prod", "--model", "llama-8b", "--hours", "1"]


def run(capsys, *arguments):
    code = main([*QUICK, *arguments])
    return code, *capsys.readouterr()


def test_tables_for_people(capsys):
    code, out, _ = run(capsys, "--profile", "diurnal")
    assert code == 0
    for words in ("As planned", "Latencies", "Cost of the replay", "What would change it", "with a warm node"):
        assert words in out


def test_one_document_for_machines_and_the_files(capsys, tmp_path):
    plot, series = tmp_path / "day.png", tmp_path / "day.csv"
    code, out, err = run(
        capsys, "--profile", "flat", "--requests-per-day", "48000", "--json", "--plot", str(plot), "--out", str(series)
    )
    assert (code, err) == (0, "")
    said = json.loads(out)
    now = said["variants"][0]
    assert said["requests"] == now["models"][0]["arrived"] == pytest.approx(2000, rel=0.1)
    assert now["models"][0]["arrived"] == sum(now["models"][0][key] for key in ("served", "refused", "in_flight"))
    assert now["usd"] == pytest.approx(now["base_usd"] + sum(rung["usd"] for rung in now["rungs"]))
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(series.open()))
    assert len(rows) == 12
    assert sum(int(row["arrived"]) for row in rows) == said["requests"]
    total = sum(float(row[key]) for row in rows for key in row if key.endswith("_usd"))
    assert total == pytest.approx(sum(rung["usd"] for rung in now["rungs"]), rel=1e-3)


def test_a_trace_is_replayed(capsys, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("time,input_tokens,output_tokens\n" + "".join(f"{i / 2},500,100\n" for i in range(600)))
    code, out, _ = run(capsys, "--trace", str(trace), "--json", "--no-compare")
    assert code == 0
    assert json.loads(out)["requests"] == 600


def test_a_missed_objective_ends_with_one(capsys):
    code, out, _ = run(capsys, "--profile", "flat", "--requests-per-day", "1e8", "--no-compare")
    assert code == 1
    assert "missed" in out
    assert "`replicas.max` is 5" in out


def test_the_proposal_is_yaml_that_can_be_pasted(capsys):
    code, out, _ = run(
        capsys, "--profile", "flat", "--requests-per-day", "1000", "--tune", "--trials", "8", "--no-compare"
    )
    assert code == 0
    lines = out.split("inference-platform:platform`:\n")[1]
    assert yaml.safe_load(lines)["models"][0]["name"] == "llama-8b"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a trace or a profile"),
        (["--profile", "flat", "--trace", "x.csv"], "not both"),
        (["--trace", "x.csv", "--requests-per-day", "5"], "its own number"),
        (["--trace", "nowhere.csv"], "cannot be read"),
        (["--profile", "flat", "--requests-per-day", "-1"], "must be 0 to"),
        (["--profile", "flat", "--requests-per-day", "nan"], "must be 0 to"),
        (["--profile", "flat", "--hours", "1000"], "must be above 0 and 168 at most"),
        (["--profile", "flat", "--hours", "0"], "must be above 0"),
        (["--profile", "flat", "--model", "lama-8b"], "did you mean `llama-8b`"),
        (["--profile", "flat", "--timezone", "Mars/Base"], "no IANA time zone"),
        (["--profile", "flat", "--date", "tomorrow"], "--date"),
        (["--profile", "flat", "--spot-interruptions", "inf"], "must be 0 to 60"),
        (["--profile", "flat", "--plot", "/nowhere/x.png"], "no directory"),
        (["--profile", "flat", "--plot", "x.docx"], ".png"),
    ],
)
def test_what_cannot_be_meant_is_refused(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_missing_packages_are_told_with_the_way_to_them(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    code, _, err = run(capsys, "--profile", "flat", "--tune")
    assert code == 3
    assert "optuna" in err
    assert "requirements-simulation.txt" in err


def test_planning_does_without_the_packages():
    code = "import sys; from ops.__main__ import main; main(['plan', '--stack', 'dev']); "
    code += "assert not {'numpy', 'optuna', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
