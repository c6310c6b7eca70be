"""Writes catalog/engine_flags/: what the pinned engines' own argument parsers take, and how they judge our lines.

`python -m catalog.tools.engine_flags --engine vllm|sglang|ray-llm|lmcache` installs the engine's wheel (without its
kernels: `--no-deps`, plus what its parser imports) into an environment outside the project and asks the parser there;
no GPU is needed, but about 7 GB of disk for torch. `--workspace DIR` keeps that environment for the next run.

`--lines FILE` puts command lines to the real parser instead and records its answers. FILE is a JSON object
{engine: {name: line}}, as `python -m planner.engines.page --lines` prints it; a line of ray-llm is a serve document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.engine_flags import DIRECTORY, PARSED_FILE
from catalog.load import load

ENGINES = ("vllm", "sglang", "ray-llm")

# renovate: datasource=pypi depName=lmcache
LMCACHE = "lmcache==0.5.6"
"""What `kv_offload.through: lmcache` is held to; a package without a parser."""

PROBE = Path(__file__).with_name("engine_probe.py")

TORCH = "torch==2.14.0"
"""What the pinned vLLM asks for; the parsers of all three import under it."""

# What importing the parsers needs beside torch; the engines' own kernels are not among it.
IMPORTS = (
    "aiohttp", "anthropic", "blake3", "cachetools", "cbor2", "cloudpickle", "compressed-tensors==0.17.0", "depyf",
    "einops", "fastapi[standard]<0.137", "huggingface_hub", "ijson", "ipython", "jsonschema", "lark", "llguidance",
    "lm-format-enforcer", "mcp", "mistral_common", "model-hosting-container-standards", "msgspec", "ninja", "numpy<2.5",
    "nvidia-ml-py", "openai", "openai-harmony", "opentelemetry-api", "opentelemetry-sdk", "orjson", "oss-harmony",
    "outlines_core", "packaging", "partial-json-parser", "pillow", "prometheus-fastapi-instrumentator",
    "prometheus_client", "protobuf", "psutil", "py-cpuinfo", "pyarrow", "pybase64", "pydantic", "python-json-logger",
    "pyyaml", "pyzmq", "regex", "requests", "safetensors", "scipy", "sentencepiece", "setproctitle", "tiktoken",
    "tokenizers", "tqdm", "transformers>=5.16.1,<5.21", "uvloop", "watchfiles", "xxhash", "zstandard",
)  # fmt: skip
WITHOUT_DEPENDENCIES = ("xgrammar==0.2.8", "apache-tvm-ffi==0.1.11", "torchvision==0.29.0")
"""Their dependencies are kernels again."""


def package_of(engine: str) -> str:
    """The Python package that has the engine's parser, at its pinned version."""
    if engine == "lmcache":
        return LMCACHE
    found = load().engines[engine]
    return f"{'sglang' if engine == 'sglang' else 'vllm'}=={found.engine_version}"


def prepare(engine: str, workspace: Path) -> dict[str, str]:
    """Environment variables with which `workspace`/env's Python imports the engine; installs what is missing."""
    environment = workspace / "env"
    if not environment.exists():
        venv.create(environment, with_pip=True)
        _pip(environment, TORCH)
        _pip(environment, *IMPORTS)
        _pip(environment, "--no-deps", *WITHOUT_DEPENDENCIES)
        _pip(environment, f"ray[serve]=={load().engines['ray-llm'].version}")
    package = workspace / package_of(engine)
    if not package.exists():
        _pip(environment, "--no-deps", "--target", str(package), package_of(engine))
    # vLLM looks for a device while it builds its parser; the CPU is always there.
    return {**os.environ, "PYTHONPATH": str(package), "VLLM_TARGET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def _pip(environment: Path, *arguments: str) -> None:
    subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "-q", *arguments], check=True)


def ask(action: str, engine: str, workspace: Path, given: object = None) -> dict[str, Any]:
    """The answer of the engine's parser."""
    return run_probe([PROBE, action, engine], workspace, prepare(engine, workspace), given)


def run_probe(command: list[str | Path], workspace: Path, environment: dict[str, str], given: object) -> dict[str, Any]:
    """What a script prints last, as JSON, in the Python that imports the engines; SystemExit where it fails."""
    done = subprocess.run(
        [workspace / "env" / "bin" / "python", *command],
        env=environment,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[-1]} could not be asked:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def described(engine: str, workspace: Path) -> str:
    """The whole file of an engine: one flag a line, so that a new version shows as a readable difference."""
    asked = ask("flags" if engine in ENGINES else "names", engine, workspace)
    parser = f"the argument parser of {package_of(engine)} itself, built on CPU"
    head = {
        "engine": engine,
        "version": asked["version"],
        "source": f"{parser}; metrics and environment read in its source"
        if asked["flags"]
        else f"the source of {package_of(engine)}",
        "evidence": "source",
        "as_of": datetime.now(tz=UTC).date().isoformat(),
    }
    lists = {key: asked[key] for key in ("metrics", "environment", "engine_arguments") if key in asked}
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, names in {"flags": asked["flags"], **lists}.items():
        rows = ",\n".join(f"    {json.dumps(name)}" for name in names)
        parts.append(f'  "{key}": [\n{rows}\n  ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def serve_schemas(workspace: Path) -> str:
    """Ray Serve's own schemas."""
    asked = ask("schemas", "ray-llm", workspace)
    head = {
        "version": asked.pop("version"),
        "source": "ray.serve.schema.ServeDeploySchema and ray.serve.llm.LLMConfig, as the pinned Ray states them",
        "evidence": "source",
        "as_of": datetime.now(tz=UTC).date().isoformat(),
    }
    return json.dumps({**head, **asked}, indent=1) + "\n"


def judge(lines: dict[str, dict[str, Any]], workspace: Path, directory: Path) -> list[str]:
    """Put lines to the real parsers and record what was tried; the refusals."""
    target = directory / PARSED_FILE
    record: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    refused: list[str] = []
    for engine, named in lines.items():
        asked = ask("parse", engine, workspace, list(named.values()))
        for name, said in zip(named, asked["results"], strict=True):
            if said is not None:
                refused.append(f"{engine} {asked['version']}: {name}: {said}")
        record[engine] = {
            "version": asked["version"],
            "as_of": datetime.now(tz=UTC).date().isoformat(),
            "lines": len(named),
            "refused": sum(said is not None for said in asked["results"]),
            "names": sorted(named),
            "options": sorted({option for line in named.values() for option in _options(line)}),
        }
    if not refused:
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return refused


def _options(line: Any) -> list[str]:
    """Options that a line uses; of a serve document, the engine's arguments."""
    if isinstance(line, dict):
        (application,) = line["applications"]  # pyright: ignore[reportUnknownVariableType]
        return [key for config in application["args"]["llm_configs"] for key in config["engine_kwargs"]]  # pyright: ignore
    return [str(token).partition("=")[0] for token in line if str(token).startswith("--")]


def main(arguments: list[str]) -> int:
    """Describe engines, or judge lines."""
    parser = argparse.ArgumentParser(prog="python -m catalog.tools.engine_flags", description=__doc__)
    parser.add_argument(
        "--engine", choices=(*ENGINES, "lmcache"), action="append", help="which one; all where left out"
    )
    parser.add_argument("--workspace", type=Path, help="keeps the environment here; else it is thrown away")
    parser.add_argument("--lines", type=Path, help="JSON of command lines to put to the real parsers")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="engines-") as throw_away:
        workspace = (given.workspace or Path(throw_away)).absolute()
        if given.lines:
            refused = judge(json.loads(given.lines.read_text(encoding="utf-8")), workspace, DIRECTORY)
            sys.stderr.writelines(f"{one}\n" for one in refused)
            return 1 if refused else 0
        for engine in given.engine or (*ENGINES, "lmcache"):
            (DIRECTORY / f"{engine}.json").write_text(described(engine, workspace), encoding="utf-8")
            if engine == "ray-llm":
                (DIRECTORY / "ray-serve-schemas.json").write_text(serve_schemas(workspace), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
