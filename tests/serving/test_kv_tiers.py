"""KV blocks in RAM, and prompts that are computed before a pod is ready."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import program
from components.scripts import warm_prompts as script
from components.serving import warm_prompts
from planner import StackFileError, load_and_plan
from planner.plan import ModelPlan, Plan
from tests.harness import World, deploy
from tests.stacks import changed

SYSTEM = "You are a careful assistant of a bank. " * 60


def planned(directory: Path, stack: str = "dev", **fields: Any) -> Plan:
    """A committed stack whose first model has further fields."""
    settings = {f"models.0.{key}": value for key, value in fields.items()}
    return load_and_plan(changed(directory, stack, settings, removed=("budget",)))[1]


def flags(model: ModelPlan) -> dict[str, str]:
    pairs = [arg.partition("=") for arg in model.container.args if arg.startswith("--")]
    return {name: value for name, _, value in pairs}


def container_of(world: World, name: str) -> dict[str, Any]:
    (record,) = [record for record in world if record.name == f"{name}-workload"]
    template = record.inputs["spec"]["template"]
    return {**template["spec"], "annotations": template["metadata"]["annotations"]}


def test_vllm_is_given_the_ram_of_all_ranks(tmp_path: Path) -> None:
    model = planned(tmp_path, kv_offload={"cpu_gib": 8}).models[0]
    assert flags(model)["--kv-offloading-size"] == "8"
    assert flags(model)["--kv-offloading-backend"] == "native"
    assert "8 GiB" in model.why["kv_offload"]
    assert "--kv-offloading-size" not in flags(planned(tmp_path).models[0])


def test_ram_that_holds_no_more_than_the_gpus_is_remarked_on(tmp_path: Path) -> None:
    def told(cpu_gib: int) -> list[str]:
        found = planned(tmp_path, "staging", kv_offload={"cpu_gib": cpu_gib}).findings
        return [one.message for one in found if "gives back little below" in one.message]

    (message,) = told(2)
    least = int(message.rpartition("below ")[2].split()[0])
    assert least > 2
    assert told(least) == []
    assert told(least - 2) != []


def test_sglang_is_given_the_ram_of_each_rank(tmp_path: Path) -> None:
    model = planned(tmp_path, engine="sglang", kv_offload={"cpu_gib": 6}).models[0]
    assert "--enable-hierarchical-cache" in flags(model)
    assert flags(model)["--hicache-size"] == "6"  # 6 GiB are 6.4 GB, on one GPU


def test_ray_passes_the_same_on(tmp_path: Path) -> None:
    model = planned(tmp_path, "staging", kv_offload={"cpu_gib": 64}).models[0]
    assert model.ray is not None
    kwargs = json.dumps(model.ray.serve_config)
    assert '"kv_offloading_size": 64.0' in kwargs


def test_what_ram_does_not_hold_is_refused_with_what_it_does(tmp_path: Path) -> None:
    with pytest.raises(StackFileError) as raised:
        planned(tmp_path, kv_offload={"cpu_gib": 4000})
    text = str(raised.value)
    assert "models[0].kv_offload.cpu_gib" in text
    most = int(text.rpartition("set it to ")[2].split()[0])
    assert planned(tmp_path, kv_offload={"cpu_gib": most}).models
    with pytest.raises(StackFileError):
        planned(tmp_path, kv_offload={"cpu_gib": most + 1})


def test_prompts_are_computed_by_the_startup_probe_and_nowhere_else(tmp_path: Path) -> None:
    plan = planned(tmp_path, warm_prompts=[SYSTEM])
    model = plan.models[0]
    assert model.warm_prompts is not None
    world = deploy(lambda: program.build(plan) and None, stack=plan.stack)
    pod = container_of(world, model.name)
    engine = pod["containers"][0]
    assert engine["startupProbe"]["exec"]["command"][0] == "python3"
    assert engine["startupProbe"]["timeoutSeconds"] > model.warm_prompts.limit_seconds
    assert "httpGet" in engine["readinessProbe"]
    assert pod["annotations"][warm_prompts.ANNOTATION] == warm_prompts.digest(model.warm_prompts)
    (config,) = [record for record in world if record.name == f"{model.name}-warm-prompts"]
    assert json.loads(config.inputs["data"]["prompts.json"])["prompts"] == [SYSTEM]
    mounted = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert config.inputs["metadata"]["name"] in mounted


def test_the_gain_is_the_prefill_of_the_prompt(tmp_path: Path) -> None:
    short = planned(tmp_path, warm_prompts=[SYSTEM[:400]]).models[0].warm_prompts
    long = planned(tmp_path, warm_prompts=[SYSTEM]).models[0].warm_prompts
    assert short is not None
    assert long is not None
    assert 0 < short.saved_ms[0] < long.saved_ms[0]
    assert 15 <= long.limit_seconds <= 120


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("longer than the context", "dev", {"warm_prompts": ["word " * 19_000]}, "shorten it"),
    ("more than a ConfigMap", "dev", {"warm_prompts": ["ß" * 60_000] * 10}, "the ConfigMap that holds them"),
    ("on Ray", "staging", {"warm_prompts": [SYSTEM]}, "Ray Serve decides by itself"),
    (
        "without a cache of prefixes",
        "dev",
        {"warm_prompts": [SYSTEM], "engine_options": {"engine": "vllm", "prefix_caching": False}},
        "keeps no prefixes",
    ),
]


@pytest.mark.parametrize(("name", "stack", "fields", "words"), BAD, ids=[case[0] for case in BAD])
def test_prompts_that_would_warm_nothing_are_refused(
    name: str, stack: str, fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(StackFileError) as raised:
        planned(tmp_path, stack, **fields)
    assert words in str(raised.value), name


class Engine:
    """A server that answers as an engine does, or hangs."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.hang = threading.Event()
        self.hang.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.keys.append(self.headers["Authorization"])
                outer.hang.wait(10)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


def stat(directory: Path, ticks: int) -> Path:
    """/proc/1/stat of an engine that began then."""
    file = directory / "stat"
    fields = ["S", *["0"] * 18, str(ticks), *["0"] * 30]
    file.write_text(f"1 (python3 (vllm) x) {' '.join(fields)}")
    return file


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(script, "TRIED", tmp_path / "tried")
    monkeypatch.setattr(script, "LOG", tmp_path / "log")
    monkeypatch.setattr(script, "ENGINE", stat(tmp_path, 4711))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    found = Engine()
    yield found
    found.close()


def config(directory: Path, url: str, limit: float = 5, caches: int = 1) -> str:
    file = directory / "prompts.json"
    text = {
        "model": "llama",
        "health": f"{url}/health",
        "completions": f"{url}/v1/chat/completions",
        "key_variable": "VLLM_API_KEY",
        "limit_seconds": limit,
        "caches": caches,
        "prompts": ["one", "two"],
    }
    file.write_text(json.dumps(text))
    return str(file)


def test_each_prompt_is_sent_once_with_the_key(engine: Engine, tmp_path: Path) -> None:
    file = config(tmp_path, engine.url)
    assert script.main(file) == 0
    assert [ask["messages"][0]["content"] for ask in engine.asked] == ["one", "two"]
    assert engine.keys == ["Bearer secret"] * 2
    assert "2 of 2" in script.LOG.read_text()
    assert script.main(file) == 0
    assert len(engine.asked) == 2, "a probe that is asked again replays nothing"


def test_an_engine_that_restarts_in_its_pod_is_warmed_again(engine: Engine, tmp_path: Path) -> None:
    file = config(tmp_path, engine.url)
    assert script.main(file) == 0
    stat(tmp_path, 9999)
    assert script.main(file) == 0
    assert len(engine.asked) == 4, "the mark outlives the process, and its cache does not"


def test_a_process_says_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    monkeypatch.setattr(script, "ENGINE", Path("/proc/self/stat"))
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < int(script.started()) / os.sysconf("SC_CLK_TCK") <= uptime


def test_an_engine_that_is_not_up_is_asked_again(tmp_path: Path, engine: Engine) -> None:
    engine.close()
    assert script.main(config(tmp_path, engine.url)) == 1
    assert not script.TRIED.exists()


def test_an_engine_that_hangs_does_not_keep_the_pod_from_being_ready(engine: Engine, tmp_path: Path) -> None:
    engine.hang.clear()
    assert script.main(config(tmp_path, engine.url, limit=0.3)) == 0
    assert script.TRIED.exists()


def test_every_cache_of_an_engine_is_asked(engine: Engine, tmp_path: Path) -> None:
    assert script.main(config(tmp_path, engine.url, caches=3)) == 0
    assert [ask["messages"][0]["content"] for ask in engine.asked] == ["one"] * 3 + ["two"] * 3
    assert "2 of 2" in script.LOG.read_text()


def test_a_marker_that_cannot_be_written_costs_the_prompts_alone(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every look of the probe would replay them, and the pod would never be ready."""
    monkeypatch.setattr(script, "TRIED", tmp_path / "missing" / "tried")
    assert script.main(config(tmp_path, engine.url)) == 0
    assert engine.asked == []


def test_an_answer_that_is_no_http_costs_the_prompts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise http.client.BadStatusLine("garbage")

    monkeypatch.setattr(script, "LOG", tmp_path / "log")
    monkeypatch.setattr(script.urllib.request, "urlopen", broken)
    assert script.replay(json.loads(Path(config(tmp_path, "http://127.0.0.1:9")).read_text()), None) == 0
    assert "garbage" in script.LOG.read_text()
