"""Runs beside an engine, in an environment of its own: configures it as its server does before it loads weights.

A CPU will do: the GPU that the engine asks about is described to it, kernels of other packages are stand-ins that
nobody calls, and vLLM's own load beside a stand-in of the driver. What it configures is real: vLLM's
`create_engine_config`, SGLang's `ServerArgs.resolve_once`. Started by `catalog.tools.engine_start` with that
environment's Python, so it imports nothing of this project.
Usage: `python engine_start_probe.py vllm|sglang < starts.json`, a list of {line, gpu, gpus}; prints a list of what the
engine said, null where it would go on to load weights.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import io
import json
import logging
import os
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

_KERNELS = (
    "cutlass",
    "deep_ep",
    "deep_gemm",
    "flash_mla",
    "flashinfer",
    "gguf",
    "mooncake",
    "nixl",
    "quack",
    "sgl_kernel",
    "tilelang",
    "triton_kernels",
)
"""Modules of compiled code beside the engines' own, which only runs on a GPU."""
_UNITS = 132
"""Multiprocessors of the GPU in the engine's place; nothing that is judged here depends on them."""

gpu: dict[str, Any] = {"capability": (9, 0), "bytes": 80 << 30, "name": "NVIDIA H100", "gpus": 8}


class _Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=name)
        setattr(self, name, made)  # one object for all who import it: they compare what it holds
        return made


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, *_where: object) -> Any:
        stubbed = any(fullname == name or fullname.startswith(f"{name}.") for name in _KERNELS)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if stubbed else None

    def create_module(self, spec: Any) -> types.ModuleType:
        made = _Stub(spec.name)  # a package, as its spec says
        made.__file__ = __file__
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def stand_in_kernels() -> None:
    """Modules that only a GPU runs import from here on."""
    sys.meta_path.insert(0, _Stubs())


def always(answer: Callable[[], Any]) -> Callable[..., Any]:
    """A function of any arguments."""

    def asked(*_args: Any, **_more: Any) -> Any:
        return answer()

    return asked


def describe_gpu() -> None:
    """Make torch answer for the GPU of the case at hand."""
    cuda: Any = importlib.import_module("torch").cuda
    properties = MagicMock(multi_processor_count=_UNITS)
    cuda.is_available = always(lambda: True)
    cuda.device_count = always(lambda: gpu["gpus"])
    cuda.current_device = always(lambda: 0)
    cuda.get_device_capability = always(lambda: gpu["capability"])
    cuda.get_device_name = always(lambda: gpu["name"])
    cuda.mem_get_info = always(lambda: (gpu["bytes"], gpu["bytes"]))
    cuda.get_device_properties = always(lambda: properties)


def vllm_configures() -> Any:
    """A function that takes a command line as far as vLLM's engine configuration."""
    platforms: Any = importlib.import_module("vllm.platforms")
    base: Any = importlib.import_module("vllm.platforms.cuda").NonNvmlCudaPlatform
    capability: Any = importlib.import_module("vllm.platforms.interface").DeviceCapability

    class Described(base):
        @classmethod
        def get_device_capability(cls, *_args: object, **_more: object) -> Any:
            return capability(*gpu["capability"])

        @classmethod
        def get_device_name(cls, *_args: object, **_more: object) -> str:
            return gpu["name"]

        @classmethod
        def get_device_total_memory(cls, *_args: object, **_more: object) -> int:
            return gpu["bytes"]

        @classmethod
        def is_fully_connected(cls, *_args: object, **_more: object) -> bool:
            return True

        @classmethod
        def device_count(cls) -> int:
            return gpu["gpus"]

        @classmethod
        def num_compute_units(cls, *_args: object, **_more: object) -> int:
            return _UNITS

    platforms._current_platform = Described()
    torch: Any = importlib.import_module("torch")
    torch.accelerator.device_count = always(lambda: gpu["gpus"])
    flexible: Any = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    cli: Any = importlib.import_module("vllm.entrypoints.common.cli_args")
    parser = cli.make_arg_parser(flexible(prog="vllm serve"))
    arguments: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    usage: Any = importlib.import_module("vllm.usage.usage_lib").UsageContext

    def configure(line: list[str]) -> None:
        known = parser.parse_args(line)
        known.subparser, known.model = "serve", known.model_tag
        cli.validate_parsed_serve_args(known)
        arguments.from_cli_args(known).create_engine_config(usage_context=usage.OPENAI_API_SERVER)

    return configure


def sglang_configures() -> Any:
    """A function that takes a command line as far as SGLang's resolved server arguments."""
    common: Any = importlib.import_module("sglang.srt.utils.common")
    common.get_device_memory_capacity = always(lambda: gpu["bytes"] / 2**20)
    server: Any = importlib.import_module("sglang.srt.server_args").ServerArgs
    parser = argparse.ArgumentParser(prog="sglang")
    server.add_cli_args(parser)

    def configure(line: list[str]) -> None:
        server.from_cli_args(parser.parse_args(line)).resolve_once()

    return configure


def forget() -> None:
    """What was cached about another GPU."""
    for module in list(sys.modules.values()):
        if module.__name__.partition(".")[0] in {"vllm", "sglang"}:
            for value in list(vars(module).values()):
                with contextlib.suppress(Exception):
                    value.cache_clear()


def said(configure: Any, start: dict[str, Any]) -> str | None:
    """What the engine says against a start."""
    described = {
        "capability": tuple(int(part) for part in start["gpu"]["compute_capability"].split(".")),
        "bytes": int(start["gpu"]["memory_mib"]) << 20,
        "name": f"NVIDIA {start['gpu']['name']}",
        "gpus": start["gpus"],
    }
    if described != gpu:
        gpu.update(described)
        forget()
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            configure(start["line"])
    except SystemExit:
        return output.getvalue().strip().splitlines()[-1]
    except Exception as error:  # noqa: BLE001 - a refusal, whatever its class
        return f"{type(error).__name__}: {error}"
    return None


def main(arguments: list[str]) -> int:
    """Print the answers as JSON, last on standard output."""
    (engine,) = arguments
    logging.disable(logging.CRITICAL)
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CONFIGURE_LOGGING="0")
    stand_in_kernels()
    describe_gpu()
    configure = vllm_configures() if engine == "vllm" else sglang_configures()
    answers = [said(configure, start) for start in json.load(sys.stdin)]
    found = {"version": importlib.metadata.version(engine), "answers": answers}
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
