"""Runs beside an engine, in an environment of its own: describes its real argument parser, and tries lines on it.

Started by `catalog.tools.engine_flags` with that environment's Python, so it imports nothing of this project.
Usage: `python engine_probe.py flags|parse|schemas vllm|sglang|ray-llm`; `parse` reads a JSON list of argument lists.
`names lmcache` reads the source of a package that has no parser.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

_VLLM_PARSERS = (
    "vllm.entrypoints.common.cli_args",  # 0.33
    "vllm.entrypoints.launchers.cli_args",  # 0.29
    "vllm.entrypoints.openai.cli_args",  # older
)

_METRIC_KINDS = ("counter", "gauge", "histogram", "summary")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


def parser_of(engine: str) -> argparse.ArgumentParser:
    """The parser that the engine itself makes for its server."""
    if engine == "sglang":
        made = argparse.ArgumentParser(prog="sglang serve")
        importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(made)
        return made
    flexible = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    return _vllm_module().make_arg_parser(flexible(prog="vllm serve"))


def _vllm_module() -> Any:
    for name in _VLLM_PARSERS:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    message = f"none of {', '.join(_VLLM_PARSERS)} is in this vLLM"
    raise SystemExit(message)


def flags_of(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """Every argument of a parser, in the order of the parser."""
    groups = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
    # Spellings that help does not show, such as vLLM's --no-enable-x beside --disable-x, are taken all the same.
    hidden: dict[int, list[str]] = {}
    for spelling, action in parser._option_string_actions.items():
        hidden.setdefault(id(action), []).append(spelling)
    found: list[dict[str, Any]] = []
    for action in parser._actions:
        if type(action).__name__ == "_HelpAction":
            continue
        entry: dict[str, Any] = {
            "names": [*dict.fromkeys([*action.option_strings, *hidden.get(id(action), ())])] or [action.dest],
            "dest": action.dest,
            "takes": _takes(action),
        }
        if entry["takes"] == "value":
            entry.update(_values(action))
        if not action.option_strings:
            entry["positional"] = True
        if action.required and action.option_strings:
            entry["required"] = True
        if action.default is not None and action.default is not argparse.SUPPRESS:
            entry["default"] = _plain(action.default)
        if _deprecated(action):
            entry["deprecated"] = True
        group = groups.get(id(action))
        if group and group not in {"options", "positional arguments"}:
            entry["group"] = group
        found.append(entry)
    return found


def _values(action: argparse.Action) -> dict[str, Any]:
    """What values an argument takes."""
    found: dict[str, Any] = {"type": _type(action.type)}
    if action.nargs is not None:
        found["nargs"] = action.nargs
    if action.choices is not None:
        found["choices"] = [_plain(choice) for choice in action.choices]
    elif isinstance(action.metavar, str) and action.metavar.startswith("{"):
        # vLLM's parsers of tool calls: a plugin may add to them.
        found["known"] = sorted(action.metavar[1:].partition("}")[0].split(","))
    return found


def _deprecated(action: argparse.Action) -> bool:
    return "deprecated" in (action.help or "").lower()[:60] or "deprecated" in type(action).__name__.lower()


def _takes(action: argparse.Action) -> str:
    """`value`, `nothing`, or `switch` for a pair of --x and --no-x."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    return "nothing" if action.nargs == 0 else "value"


def _type(convert: Any) -> str:
    """What a value must be, found by trying: the converters are closures whose names say little."""
    if convert is None or convert is str:
        return "text"
    for kind, good, bad in (
        ("int", ("7",), ("7.5", "7k", "word", '{"a": 1}')),
        ("count", ("7", "7k"), ("word", '{"a": 1}')),  # 32k, 1M: vLLM's human-readable numbers
        ("float", ("7", "7.5"), ("word", '{"a": 1}')),
        ("json", ('{"a": 1}',), ("word",)),
        ("bool", ("true", "false"), ("7.5", "word")),
    ):
        if all(_accepts(convert, value) for value in good) and not any(_accepts(convert, value) for value in bad):
            return kind
    return "text"


def _accepts(convert: Callable[[str], Any], value: str) -> bool:
    try:
        convert(value)
    except Exception:  # noqa: BLE001 - whatever a converter raises, it refuses
        return False
    return True


def _plain(value: Any) -> Any:
    """As JSON has it; objects by their class, since their text may hold addresses."""
    value = getattr(value, "value", value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in list(cast("list[Any]", value))]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in cast("dict[Any, Any]", value).items()}
    return f"<{type(value).__name__}>"


def metrics_of(package: Path) -> list[str]:
    """Names of the metrics that a package makes, as Prometheus exposes them, read in its source.

    A metric is a call with a name `prefix:...` whose function (`Counter`, `self._gauge_cls`, ...) says the kind, or
    such a name in a table whose values do. Where it is a constant, the table may stand in another module.
    """
    prefix = f"{package.name}:"
    trees = [ast.parse(text) for text in _sources(package) if prefix in text or "Metadata(" in text]
    constants = {name: value for tree in trees for name, value in _constants(tree, prefix)}
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found.update(_metric(node, prefix))
            elif isinstance(node, ast.Assign):
                found.update(_listed(node, prefix))
            elif isinstance(node, ast.Dict):
                found.update(_table(node, constants))
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                found.update(_entry(node.targets[0].slice, node.value, constants))
    return sorted(found)


def _sources(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def _constants(tree: ast.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """`NAME = "prefix:..."` of a module, and of a class as `Class.NAME`."""
    for owner in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        for node in owner.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                name, value = ast.unparse(node.targets[0]), node.value.value
                if isinstance(value, str) and value.startswith(prefix):
                    yield (f"{owner.name}.{name}" if isinstance(owner, ast.ClassDef) else name), value


def _table(table: ast.Dict, constants: dict[str, str]) -> Iterator[str]:
    """Names in a table such as {Names.LOADED: CounterMetadata(...)}."""
    for key, value in zip(table.keys, table.values, strict=True):
        if key is not None:
            yield from _entry(key, value, constants)


def _entry(key: ast.expr, value: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    name = constants.get(ast.unparse(key))
    kind = _kind(value.func) if isinstance(value, ast.Call) else None
    if name is not None and kind is not None:
        yield _exposed(name, kind)


def _kind(named: ast.expr) -> str | None:
    text = ast.unparse(named).lower()
    return next((kind for kind in _METRIC_KINDS if kind in text), None)


def environment_read(package: Path) -> set[str]:
    """Environment variables that a package asks for by name: `os.environ[...]`, `os.getenv(...)`, `"X" in os.environ`,
    and functions and fields that are called something with `env` (`get_bool_env_var("X")`)."""
    found: set[str] = set()
    for text in _sources(package):
        if "env" not in text.lower():
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and "env" in ast.unparse(node.func).lower():
                asked: ast.expr = node.args[0]
            elif isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
                asked = node.slice
            elif isinstance(node, ast.Compare) and "environ" in ast.unparse(node.comparators[0]):
                asked = node.left
            else:
                continue
            if isinstance(asked, ast.Constant) and isinstance(asked.value, str) and _VARIABLE.fullmatch(asked.value):
                found.add(asked.value)
    return found


def _listed(assigned: ast.Assign, prefix: str) -> Iterator[str]:
    """Names in a list such as `counter_specs`, from which a loop makes the metrics."""
    kind = _kind(assigned.targets[0])
    if kind is None or not isinstance(assigned.value, ast.List | ast.Tuple):
        return
    for node in ast.walk(assigned.value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(prefix):
            yield _exposed(node.value, kind)


def _exposed(name: str, kind: str) -> str:
    """prometheus_client appends _total to counters that lack it."""
    return f"{name.removesuffix('_total')}_total" if kind == "counter" else name


def _metric(call: ast.Call, prefix: str) -> Iterator[str]:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "name"] or call.args[:1]
    name = named[0].value if named and isinstance(named[0], ast.Constant) else None
    if not isinstance(name, str) or not name.startswith(prefix):
        return
    kind = _kind(call.func)
    if kind is None:
        return
    yield _exposed(name, kind)


def with_reasoning_parsers(flags: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """vLLM's help does not list its parsers of reasoning; their registry does."""
    manager: Any = importlib.import_module("vllm.reasoning").ReasoningParserManager
    for flag in flags:
        if flag["dest"] == "reasoning_parser":
            flag["known"] = sorted(manager.list_registered())
    return flags


def environment_of(engine: str, package: Path) -> list[str]:
    """Environment variables that the engine reads: its own list, and what its source asks for beside it."""
    if engine == "sglang":
        envs: Any = importlib.import_module("sglang.srt.environ").envs
        listed = {name for name in dir(envs) if name.isupper()}
    else:
        listed = set(importlib.import_module("vllm.envs").environment_variables)
    if engine == "ray-llm":
        # Beside vLLM: Ray Serve LLM and Ray's own Python. What its core reads is not in its Python source.
        listed |= environment_read(Path(importlib.import_module("ray").__file__ or "").parent)
    return sorted(listed | environment_read(package))


def names_of(name: str) -> dict[str, Any]:
    """Variables and metrics of a package that is not imported: of LMCache, each key of its configuration is one."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        message = f"{name} is not there"
        raise SystemExit(message)
    package = Path(spec.origin).parent
    tree = ast.parse((package / "v1" / "config.py").read_text(encoding="utf-8"))
    listed: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_CONFIG_DEFINITIONS":
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            listed |= {f"{name.upper()}_{str(key.value).upper()}" for key in keys if isinstance(key, ast.Constant)}
    return {
        "version": importlib.metadata.version(name),
        "flags": [],
        "environment": sorted(listed | environment_read(package)),
        "metrics": metrics_of(package),
    }


def engine_arguments() -> list[str]:
    """Keyword arguments of vLLM's engine, which Ray Serve LLM passes on."""
    arguments: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    return sorted(field.name for field in dataclasses.fields(arguments))


def schemas() -> dict[str, Any]:
    """JSON schemas of Ray Serve's deployment document and of an entry of `llm_configs`, as Ray itself states them."""
    serve: Any = importlib.import_module("ray.serve.schema").ServeDeploySchema
    llm: Any = importlib.import_module("ray.serve.llm").LLMConfig
    scaling: Any = importlib.import_module("ray.serve.config").AutoscalingConfig
    return {
        "serve": _schema(serve),
        "llm_config": llm.model_json_schema(),
        "autoscaling": _schema(scaling),
        "deployment_options": sorted(_deployment_options()),
    }


def _schema(model: Any) -> Any:
    return model.model_json_schema() if hasattr(model, "model_json_schema") else model.schema()


def _deployment_options() -> Iterator[str]:
    model: Any = importlib.import_module("ray.serve.schema").DeploymentSchema
    yield from getattr(model, "model_fields", None) or model.__fields__


def tried(engine: str, lines: list[Any]) -> list[str | None]:
    """What the engine says about each line; None where it takes it. Ray is given serve documents."""
    if engine == "ray-llm":
        return [_try_serve(document) for document in lines]
    parser = parser_of(engine)
    return [_try(parser, engine, line) for line in lines]


def _try_serve(document: dict[str, Any]) -> str | None:
    """Serve's own model of the document, Ray's own of each model in it, and vLLM's own engine arguments."""
    serve: Any = importlib.import_module("ray.serve.schema").ServeDeploySchema
    llm: Any = importlib.import_module("ray.serve.llm").LLMConfig
    deployment: Any = importlib.import_module("ray.serve.schema").DeploymentSchema
    arguments: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    frontend: Any = _vllm_module().FrontendArgs
    try:
        serve(**document)
        for application in document["applications"]:
            for config in application["args"]["llm_configs"]:
                llm(**config)
                deployment(name="x", **config.get("deployment_config", {}))
                # As Ray does: what the HTTP frontend knows goes there, the rest to the engine.
                kwargs = dict(config["engine_kwargs"])
                known = {field.name for field in dataclasses.fields(frontend)}
                frontend(**{name: kwargs.pop(name) for name in list(kwargs) if name in known})
                arguments(model=config["model_loading_config"]["model_source"], **kwargs)
    except Exception as error:  # noqa: BLE001 - a refusal, whatever its class
        return f"{type(error).__name__}: {error}"
    return None


def _try(parser: argparse.ArgumentParser, engine: str, line: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            known = parser.parse_args(line)
            if engine == "vllm":
                # What the server itself checks before it starts an engine.
                _vllm_module().validate_parsed_serve_args(_served(known))
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    except Exception as error:  # noqa: BLE001 - a refusal, whatever its class
        return f"{type(error).__name__}: {error}"
    return None


def _served(known: argparse.Namespace) -> argparse.Namespace:
    known.subparser = "serve"
    return known


def main(arguments: list[str]) -> int:
    """Print what was asked for as JSON, last on standard output."""
    action, engine = arguments
    if action == "names":
        sys.stdout.write("\n" + json.dumps(names_of(engine)) + "\n")
        return 0
    package = "sglang" if engine == "sglang" else "vllm"
    result: Any
    if action == "flags":
        root = Path(importlib.import_module(package).__file__ or "").parent
        result = {
            "version": importlib.metadata.version(package),
            "flags": flags_of(parser_of(engine)),
            "environment": environment_of(engine, root),
            "metrics": metrics_of(root),
        }
        if engine != "sglang":
            with_reasoning_parsers(result["flags"])
            result["engine_arguments"] = engine_arguments()
    elif action == "schemas":
        result = {"version": importlib.metadata.version("ray"), **schemas()}
    else:
        lines = json.load(sys.stdin)
        result = {"version": importlib.metadata.version(package), "results": tried(engine, lines)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
