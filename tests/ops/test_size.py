"""`size` as people call it: tables, JSON, bad questions, and a stack file that is written whole or not at all."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ops.__main__ import app, main
from ops.console import FINDINGS, OK, USAGE
from planner import load_and_plan
from planner.handoff import EXPERIMENTAL
from tests.stacks import PLATFORM, ROOT, changed, stack_path

R1 = ("--model", "deepseek-ai/DeepSeek-R1")
LLAMA_70B = ("--model", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B")
LLAMA_8B = ("--model", "meta-llama/Llama-3.1-8B-Instruct", "--quantization", "checkpoint")
LENGTHS = ("--input", "1024:3072", "--output", "256:768")


def run(capfd, *arguments):
    """(exit code, standard output, standard error) of the verb."""
    code = main(["size", *arguments])
    said = capfd.readouterr()
    return code, said.out, said.err


def answered(capfd, *arguments):
    code, out, _ = run(capfd, *arguments, "--json")
    assert code == OK
    return json.loads(out)


@pytest.mark.parametrize(("model", "rps"), [(R1, "300"), (LLAMA_70B, "20"), (LLAMA_8B, "20")], ids=["R1", "70B", "8B"])
def test_the_front_and_why_the_rest_lost(capfd, monkeypatch, model, rps):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capfd, *model, "--rps", rps, *LENGTHS, "--ttft-p99", "2000", "--tpot-p99", "60")
    assert code == OK
    for words in (
        "Nothing beats these in cost, latency, resilience",
        "Why the rest lost",
        "no better than #1",
        "not tried:",
    ):
        assert words in out
    assert f"{model[1]}: {rps} requests/s" in out


def test_json_says_all_of_it(capfd):
    said = answered(capfd, *LLAMA_70B, "--rps", "20", *LENGTHS)
    first = said["front"][0]
    assert first["number"] == 1
    assert first["replicas"] >= 1
    assert first["ttft_ms"]["p99"] <= said["request"]["ttft_p99_ms"] == 2000
    assert first["tokens"]["output_usd_per_million"] > 0
    assert 0 < first["band"]["low"] < 1 < first["band"]["high"]
    assert first["survives"]["zone"] == 0
    assert all(price["source"] for price in first["prices"].values() if price)
    kinds = {lost["kind"] for lost in said["lost"]}
    assert {"dominated", "memory"} <= kinds
    assert sum(lost["count"] for lost in said["lost"] if lost["kind"] == "dominated") > 0


def test_no_spot_means_none(capfd):
    said = answered(capfd, *LLAMA_8B, "--rps", "20", *LENGTHS, "--no-spot")
    assert all(member["nodes"]["spot"] == 0 for member in said["front"])
    some = answered(capfd, *LLAMA_8B, "--rps", "20", *LENGTHS, "--spot-share", "0.5")
    shares = [member["nodes"]["spot"] / sum(member["nodes"].values()) for member in some["front"]]
    assert 0 < max(shares) <= 0.5


def test_a_length_without_percentile_has_the_catalogs(capfd):
    said = answered(capfd, *LLAMA_8B, "--rps", "2", "--input", "500", "--output", "100")
    assert said["request"]["input"] == {"mean": 500, "p99": 2000}


def test_regions_are_searched_together(capfd):
    one = answered(capfd, *LLAMA_8B, "--rps", "20", *LENGTHS)
    several = answered(capfd, *LLAMA_8B, "--rps", "20", *LENGTHS, "--regions", "all")
    assert several["searched"]["regions"] > 5
    assert several["front"][0]["usd_per_hour"] <= one["front"][0]["usd_per_hour"]
    assert any(lost["kind"] == "region" for lost in several["lost"])


BASE = (*LLAMA_8B, *LENGTHS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*BASE, "--rps", "-3"), USAGE, "--rps -3: must be above 0"),
        ((*BASE, "--rps", "nan"), USAGE, "--rps nan"),
        ((*BASE, "--rps", "many"), USAGE, "--rps"),
        ((*LENGTHS, "--rps", "3"), USAGE, "--model"),
        (
            ("--model", "deepseek-ai/DeepSeek-R2", *LENGTHS, "--rps", "3"),
            USAGE,
            "did you mean `deepseek-ai/DeepSeek-R1`?",
        ),
        (
            (*LLAMA_8B, "--rps", "3", "--input", "long", "--output", "2"),
            USAGE,
            "--input long: must be a number of tokens",
        ),
        ((*LLAMA_8B, "--rps", "3", "--input", "9:3", "--output", "2"), USAGE, "no log-normal length"),
        ((*LLAMA_8B, "--rps", "3", "--input", "0", "--output", "2"), USAGE, "--input 0"),
        ((*BASE, "--rps", "3", "--region", "us-eats-1"), USAGE, "did you mean `us-east-1`?"),
        ((*BASE, "--rps", "3", "--regions", ","), USAGE, "--regions names none"),
        ((*BASE, "--rps", "3", "--region", "us-east-1", "--regions", "all"), USAGE, "give one of them"),
        ((*BASE, "--rps", "3", "--front", "beauty"), USAGE, "known: cost, latency, resilience"),
        ((*BASE, "--rps", "3", "--engine", "triton"), USAGE, "triton"),
        ((*BASE, "--rps", "3", "--quantization", "fp3"), USAGE, "fp3"),
        ((*BASE, "--rps", "3", "--spot-share", "2"), USAGE, "--spot-share 2"),
        ((*BASE, "--rps", "3", "--availability", "100"), USAGE, "--availability 100"),
        ((*BASE, "--rps", "3", "--context", "1"), USAGE, "--context 4096"),
        ((*BASE, "--rps", "3", "--ttft-p99", "1"), FINDINGS, "under the physical limit"),
        ((*BASE, "--rps", "3", "--tpot-p99", "0.1"), FINDINGS, "under the physical limit"),
        ((*BASE, "--rps", "1e7"), FINDINGS, "too many: at most"),
        ((*BASE, "--rps", "3", "--name", "x"), USAGE, "--name goes with --write"),
        ((*BASE, "--rps", "3", "--dry-run"), USAGE, "--dry-run goes with --write"),
        ((*BASE, "--rps", "3", "--write", "Pulumi.dev.yaml"), USAGE, "--write needs a name"),
        ((*BASE, "--rps", "3", "--write", "Pulumi.none.yaml", "--name", "x"), USAGE, "cannot be read"),
    ],
)
def test_a_bad_question_is_told_without_a_traceback(capfd, arguments, code, words):
    ended, out, err = run(capfd, *arguments)
    assert ended == code
    assert words in " ".join(err.split())
    assert "Traceback" not in err + out


def test_help_names_every_option():
    said = CliRunner().invoke(app, ["size", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for option in (
        "--rps",
        "--input",
        "--ttft-p99",
        "--regions",
        "--no-spot",
        "--availability",
        "--front",
        "--experimental",
        "--write",
        "--replace",
    ):
        assert option in said


@pytest.fixture
def prod(tmp_path):
    """A copy of the production stack with room in its budget and time to load."""
    path = tmp_path / "Pulumi.prod.yaml"
    text = stack_path("prod").read_text(encoding="utf-8")
    text = re.sub(r"monthly_usd: \d+}", "monthly_usd: 900000} # ours", text)
    path.write_text(re.sub(r"load_seconds: \d+", "load_seconds: 3000", text), encoding="utf-8")
    return path


def written(capfd, path: Path, *arguments, model=LLAMA_8B, rps="5"):
    return run(capfd, *model, "--rps", rps, *LENGTHS, "--write", str(path), "--name", "my-model", *arguments)


@pytest.mark.parametrize("model", [LLAMA_8B, LLAMA_70B], ids=["8B", "70B"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_choice_is_written_and_plans(capfd, prod, model, number):
    before = prod.read_text(encoding="utf-8")
    chosen = answered(capfd, *model, "--rps", "5", *LENGTHS)["front"][number - 1]
    code, out, err = written(capfd, prod, "--choose", str(number), model=model)
    assert code == OK, err
    assert "model `my-model` written" in out
    after = prod.read_text(encoding="utf-8")
    lines = iter(after.splitlines())
    assert all(line in lines for line in before.splitlines()), "a line was lost"
    plan = load_and_plan(prod)[1]
    made = next(entry for entry in plan.models if entry.name == "my-model")
    pool = plan.pool(made.pool)
    assert pool.hardware.instance_type == chosen["instance_type"]
    assert made.scaling.min_replicas == chosen["replicas"]
    assert made.engine == chosen["engine"]
    assert made.layout.gpus == chosen["gpus_per_replica"]
    # The plan works out the same speed from the stack file alone.
    assert made.performance.replicas_needed <= chosen["replicas"]
    assert made.performance.capacity.requests_per_second == pytest.approx(chosen["requests_per_second_per_replica"])
    assert pool.max_nodes >= sum(chosen["nodes"].values())
    assert {rung.kind: rung.min_nodes for rung in pool.rungs}["on_demand"] == (
        chosen["nodes"]["on_demand"] if chosen["nodes"]["spot"] else 0
    )
    assert pool.zone == "us-east-1a" or "us-east-1a" not in chosen["zones"]


def test_a_dry_run_shows_the_difference_and_writes_nothing(capfd, prod):
    before = prod.read_text(encoding="utf-8")
    code, out, _ = written(capfd, prod, "--dry-run")
    assert code == OK
    assert "+      - name: my-model" in out
    assert not [line for line in out.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert prod.read_text(encoding="utf-8") == before


def test_a_name_that_is_there_is_not_overwritten(capfd, prod):
    before = prod.read_text(encoding="utf-8")
    code, _, err = run(capfd, *BASE, "--rps", "5", "--write", str(prod), "--name", "llama-8b")
    assert code == USAGE
    assert "models has `llama-8b` already" in err
    code, _, err = written(capfd, prod, "--pool", "l40s")
    assert code == USAGE
    assert "pools has `l40s` already" in err
    assert prod.read_text(encoding="utf-8") == before


def test_replace_changes_the_model_and_the_pool_that_it_had_alone(capfd, prod):
    before = yaml.safe_load(prod.read_text(encoding="utf-8"))["config"][PLATFORM]
    code, _, err = run(capfd, *BASE, "--rps", "5", "--write", str(prod), "--name", "llama-8b", "--replace")
    assert code == OK, err
    after = yaml.safe_load(prod.read_text(encoding="utf-8"))["config"][PLATFORM]
    assert [pool["name"] for pool in after["pools"]] == [pool["name"] for pool in before["pools"]]
    assert [model["name"] for model in after["models"]] == [model["name"] for model in before["models"]]
    assert after["models"][:2] == before["models"][:2]
    assert after["models"][2]["objectives"] == {"ttft_p99_ms": 2000, "tpot_p99_ms": 100}
    assert "# ours" in prod.read_text(encoding="utf-8")


def test_what_does_not_plan_is_not_written(capfd, tmp_path):
    """More than the budget allows."""
    path = changed(tmp_path, "prod", {"budget.monthly_usd": 340000})
    before = path.read_bytes()
    code, _, err = written(capfd, path, model=LLAMA_70B, rps="60")
    assert code == FINDINGS
    assert "budget.monthly_usd" in err
    assert "was left as it is" in err
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_another_region_is_refused(capfd, prod):
    code, _, err = written(capfd, prod, "--region", "us-east-2")
    assert code == USAGE
    assert "is in us-east-2, and Pulumi.prod.yaml in us-east-1" in " ".join(err.split())


def test_without_a_region_the_stacks_own_is_searched(capfd, tmp_path):
    path = changed(
        tmp_path,
        "dev",
        {"/aws:region": "us-west-2", "pools.0.availability_zone": "us-west-2a", "budget.monthly_usd": 99999},
    )
    code, out, err = written(capfd, path)
    assert code == OK, err
    assert "us-west-2" in out


def test_a_choice_that_is_not_there_is_told(capfd, prod):
    code, _, err = written(capfd, prod, "--choose", "99")
    assert code == USAGE
    assert "there is no choice #99" in err


def test_a_link_and_its_mode_stay(capfd, prod, tmp_path):
    link = tmp_path / "elsewhere" / "Pulumi.prod.yaml"
    link.parent.mkdir()
    link.symlink_to(prod)
    prod.chmod(0o640)
    assert written(capfd, link)[0] == OK
    assert link.is_symlink()
    assert stat.S_IMODE(prod.stat().st_mode) == 0o640
    assert "my-model" in prod.read_text(encoding="utf-8")


def test_a_replica_over_nodes_needs_an_image_with_efa(capfd, prod):
    asked = (
        *R1,
        "--rps",
        "5",
        *LENGTHS,
        "--tpot-p99",
        "80",
        "--engine",
        "sglang",
        "--front",
        "cost,latency,resilience",
    )
    members = answered(capfd, *asked, "--regions", "us-east-1", "--no-spot", "--quantization", "checkpoint")["front"]
    spanning = next((member for member in members if member["layout"]["nodes"] > 1), None)
    if spanning is None:
        pytest.skip("one node is better everywhere today")
    target = ("--write", str(prod), "--name", "wide", "--choose", str(spanning["number"]))
    asked = (*asked, "--regions", "us-east-1", "--no-spot", "--quantization", "checkpoint", *target)
    before = prod.read_bytes()
    code, _, err = run(capfd, *asked)
    assert code == FINDINGS
    assert "carries no EFA software" in err
    assert prod.read_bytes() == before
    assert run(capfd, *asked, "--image", "no-tag")[0] == USAGE
    code, _, err = run(capfd, *asked, "--image", "example.com/sglang-efa:v1")
    assert code == OK, err
    assert "carries_efa: true" in prod.read_text(encoding="utf-8")


LONG = (
    *("--model", "meta-llama/Llama-3.3-70B-Instruct", "--quantization", "checkpoint", "--no-spot"),
    *("--rps", "2", "--input", "6000:16000", "--output", "300:1200", "--ttft-p99", "4000", "--tpot-p99", "25"),
)
ONLY_APART = (
    *("--model", "meta-llama/Llama-3.3-70B-Instruct", "--no-spot", "--experimental"),
    *("--rps", "2", "--input", "12000:30000", "--output", "300:1200", "--ttft-p99", "6000", "--tpot-p99", "7"),
)
REVISION = ("--revision", "6f6073b423013f6a7d4d9f39144961bfbfbc386b")


@pytest.fixture
def apart(tmp_path):
    """A copy of the example with prefill and decode apart."""
    path = tmp_path / "Pulumi.disaggregated.yaml"
    text = (ROOT / "examples" / "disaggregated" / path.name).read_text(encoding="utf-8")
    path.write_text(text.replace("monthly_usd: 250000", "monthly_usd: 900000"), encoding="utf-8")
    return path


def test_experimental_answers_stand_apart_with_what_they_gain(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capfd, *LONG, "--experimental")
    assert code == OK
    first, _, second = out.partition("Experimental: prefill and decode apart")
    assert "prefill" not in first
    assert "the best ordinary answer that is no worse in anything else weighed" in second
    assert EXPERIMENTAL in second
    assert "lost: an instance type without EFA" in second
    assert "Experimental" not in run(capfd, *LONG)[1]


def test_experimental_answers_as_json(capfd):
    said = answered(capfd, *LONG, "--experimental")
    assert answered(capfd, *LONG)["experimental"] is None
    found = said["experimental"]
    assert found["note"] == EXPERIMENTAL
    assert found["answers"][0]["number"] == len(said["front"]) + 1
    for member in found["answers"]:
        assert member["experimental"] is True
        assert [group["role"] for group in member["groups"]] == ["prefill", "decode"]
        assert sum(group["ttft_p99_ms"] for group in member["groups"]) + member["transfer_ms"] == pytest.approx(
            member["ttft_p99_ms"]
        )
        assert member["gain"]["over"] <= len(said["front"])


def test_an_experimental_choice_is_written_and_the_plan_says_the_same_of_it(capfd, apart):
    said = answered(capfd, *LONG, "--experimental")["experimental"]["answers"]
    chosen = next(member for member in said if [p["instance_type"] for p in member["pools"]] == ["p5.48xlarge"])
    image = ("--image", "registry.example.com/vllm-efa-kv:v1")
    target = ("--write", str(apart), "--name", "llama-70b", "--pool", "h100", "--replace", *REVISION, *image)
    code, out, err = run(capfd, *LONG, "--experimental", "--choose", str(chosen["number"]), *target)
    assert code == OK, err
    assert "model `llama-70b` written" in out
    plan = load_and_plan(apart)[1]
    at_most = 0.0
    for group, name in zip(chosen["groups"], ("llama-70b-prefill", "llama-70b"), strict=True):
        made = next(model for model in plan.models if model.name == name)
        assert made.layout.gpus == group["gpus_per_replica"]
        assert made.scaling.min_replicas == made.scaling.max_replicas == group["replicas"]
        speed = made.performance
        assert speed.capacity.requests_per_second == pytest.approx(group["requests_per_second_per_replica"], rel=1e-3)
        assert speed.at_traffic.ttft_ms.p99 == pytest.approx(group["ttft_p99_ms"], rel=1e-3)
        at_most += speed.at_traffic.ttft_ms.p99
    assert at_most + made.disaggregation.transfer_ms == pytest.approx(chosen["ttft_p99_ms"], rel=1e-3)
    assert speed.at_traffic.tpot_ms.p99 == pytest.approx(chosen["tpot_p99_ms"], rel=1e-3)
    # And back to one group: nothing of the two is left.
    code, _, err = run(
        capfd, *LONG, "--write", str(apart), "--name", "llama-70b", "--replace", "--choose", "3", *REVISION
    )
    assert code == OK, err
    (entry,) = yaml.safe_load(apart.read_text(encoding="utf-8"))["config"][PLATFORM]["models"]
    assert "disaggregated" not in entry
    assert entry["replicas"]["min"] >= 1


def test_nodes_of_two_types_become_two_pools(capfd, apart):
    busy = (*("20" if argument == "2" else argument for argument in LONG), "--quantization", "any")
    said = answered(capfd, *busy, "--experimental")["experimental"]["answers"]
    chosen = next(member for member in said if len(member["pools"]) == 2)
    image = ("--image", "registry.example.com/vllm-efa-kv:v1")
    target = ("--write", str(apart), "--name", "llama-70b", "--pool", "answers", "--replace", *REVISION, *image)
    text = apart.read_text(encoding="utf-8")
    apart.write_text(text.replace("monthly_usd: 900000", "monthly_usd: 9000000"), encoding="utf-8")
    code, out, err = run(capfd, *busy, "--experimental", "--choose", str(chosen["number"]), *target)
    assert code == OK, err
    assert "pool `answers-prefill` and `answers`" in out
    plan = load_and_plan(apart)[1]
    for name, pool, group in zip(
        ("llama-70b-prefill", "llama-70b"), ("answers-prefill", "answers"), chosen["groups"], strict=True
    ):
        made = next(model for model in plan.models if model.name == name)
        assert made.pool == pool
        assert plan.pool(pool).hardware.gpu == group["gpu"]
        assert made.performance.at_traffic.ttft_ms.p99 == pytest.approx(group["ttft_p99_ms"], rel=1e-3)


def test_an_experimental_answer_is_never_taken_unasked(capfd, apart):
    before = apart.read_bytes()
    code, out, _ = run(capfd, *ONLY_APART)
    assert code == OK
    assert "nothing ordinary serves this" in out
    assert "Nothing beats these" not in out
    code, _, err = run(capfd, *ONLY_APART, "--write", str(apart), "--name", "x", *REVISION)
    assert code == USAGE
    assert "none is taken unasked" in err
    assert apart.read_bytes() == before
