"""Runs a Pulumi program in this process and asks an `Answers` for every resource and function.

The resource monitor is the boundary at which a Pulumi program meets the engine. Here it is a Python object: it sees
what the engine would see (parent, protection, dependencies, provider, ignored changes, aliases) and hands each resource
on with its inputs resolved, in dependency order, on a thread of its own. The unit tests and the in-process engine share
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import pulumi
from google.protobuf import empty_pb2
from pulumi.runtime import mocks
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import Settings, configure
from pulumi.runtime.stack import run_in_stack

from rehearsal.engines import values
from rehearsal.engines.values import Properties

STACK_TYPE = "pulumi:pulumi:Stack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One resource as the program declares it.

    Attributes:
        urn: as the real engine forms it.
        type: type token.
        name: logical name.
        parent: URN of the parent; None for the stack.
        custom: True for resources that a provider owns.
        remote: True for components that a plugin builds.
        inputs: camelCase, resolved, with secret and unknown marks (`values`).
        depends_on: URNs, explicit and through inputs, sorted.
        provider: `<urn>::<id>` of the explicit provider, None for the default one.
        providers: for components: the same by package.
        protect: refuse deletion (inherited from the parent).
        retain_on_delete: leave the real thing when the resource goes (inherited).
        deleted_with: URN whose deletion deletes this too (inherited).
        delete_before_replace: None where the program does not say.
        ignore_changes: property paths, as sent.
        replace_on_changes: property paths, as sent.
        aliases: earlier names or URNs, as text.
        secret_outputs: outputs to treat as secret besides those the inputs say.
        import_id: id to adopt.
    """

    urn: str
    type: str
    name: str
    parent: str | None
    custom: bool
    remote: bool = False
    inputs: Properties
    depends_on: tuple[str, ...] = ()
    provider: str | None = None
    providers: Mapping[str, str] = field(default_factory=dict[str, str])
    protect: bool = False
    retain_on_delete: bool = False
    deleted_with: str | None = None
    delete_before_replace: bool | None = None
    ignore_changes: tuple[str, ...] = ()
    replace_on_changes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    secret_outputs: tuple[str, ...] = ()
    import_id: str | None = None

    @property
    def provider_urn(self) -> str | None:
        """The URN of the explicit provider."""
        return self.provider.rpartition("::")[0] if self.provider else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine tells the program about a resource.

    Attributes:
        id: None for components and for what a preview would create.
        outputs: with marks, as `Registration.inputs`.
        skipped: True for a resource this run leaves out; the program goes on with unknown outputs.
    """

    id: str | None
    outputs: Mapping[str, Any]
    skipped: bool = False


class Answers(Protocol):
    """Who answers the program. Called from many threads at once; exceptions end the program's run."""

    def resource(self, registration: Registration) -> Answer:
        """Create, update or leave the resource and say what it is now."""
        ...

    def read(self, registration: Registration, resource_id: str) -> Answer:
        """Look up a resource that exists already."""
        ...

    def call(self, token: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a provider function."""
        ...

    def outputs(self, urn: str, outputs: Mapping[str, Any]) -> None:
        """Take the outputs that a component or the stack registers when it is complete."""
        ...

    def stop(self) -> None:
        """End what is being waited for: the user interrupted the run."""
        ...


class DuplicateUrnError(Exception):
    """Two resources of the program have the same parent chain, type and name."""


class StoppedError(Exception):
    """The user stopped the run."""


@dataclass(slots=True, kw_only=True)
class Log:
    """What the program logged, by severity."""

    warnings: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])


def make_urn(stack: str, project: str, parent: str | None, type_token: str, name: str) -> str:
    """The URN as the real engine forms it: the chain of parent types without the stack's (pulumi/sdk: resource/urn)."""
    chain = "" if parent is None else parent.split("::")[2]
    qualified = type_token if chain in ("", STACK_TYPE) else f"{chain}${type_token}"
    return f"urn:pulumi:{stack}::{project}::{qualified}::{name}"


def run_program(
    program: Callable[[], Any],
    *,
    answers: Answers,
    project: str,
    stack: str,
    preview: bool = False,
    config: Mapping[str, str] | None = None,
    secret_keys: tuple[str, ...] = (),
    root_directory: str = ".",
    threads: int = 64,
) -> Log:
    """Runs the program to its end: all resources answered, all applies drained.

    Args:
        program: declares resources, like the body of `__main__.py`.
        answers: who answers it.
        project: Pulumi project name.
        stack: stack name.
        preview: whether the program is told that this is a dry run.
        config: stack configuration, `namespace:key` to text (objects as JSON).
        secret_keys: keys of `config` that are secret.
        root_directory: the project's folder, as `pulumi.get_root_directory` tells.
        threads: resources answered at the same time; waiting ones hold a thread, so more than there are cores.

    Raises:
        Exception: what the program, an apply or an answer raised first. Answers in flight have ended by then.
    """
    log = Log()
    monitor = _Monitor(answers, project=project, stack=stack)
    failure: list[BaseException] = []
    ended = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="resource"))
        # After a failure, outputs that nobody awaited would each print the same traceback.
        loop.set_exception_handler(lambda _loop, _context: None)
        await run_in_stack(program)

    def body() -> None:
        # A thread of its own: Pulumi keeps its state in context variables and needs the thread's event loop.
        set_all_config(dict(config or {}), list(secret_keys))
        configure(
            Settings(
                project=project,
                stack=stack,
                monitor=monitor,
                engine=_Engine(log),
                dry_run=preview,
                organization="organization",
                root_directory=root_directory,
            )
        )
        try:
            with _quiet(), _no_collections(), asyncio.Runner() as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001 handed to the caller's thread
            failure.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=body, name=f"program-{stack}", daemon=True)
    thread.start()
    try:
        # Not `join`: interrupted by Ctrl-C, it takes the thread for ended (python/cpython#90882).
        while not ended.wait(0.2):
            pass
    except BaseException:
        monitor.stop()
        answers.stop()
        ended.wait()
        raise
    finally:
        thread.join()
    if failure:
        raise failure[0]
    return log


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    with warnings.catch_warnings():
        # pulumi-aws warns about its own modules on first use of aws.ec2.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"pulumi(_aws|_kubernetes)?(\..*)?")
        yield


@contextlib.contextmanager
def _no_collections() -> Generator[None]:
    """Without Python's cyclic collector: it looks again and again at a graph of outputs that only grows.

    Measured: 4,000 resources in 4 s of CPU instead of 14.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Monitor(mocks.MockMonitor):
    """The SDK's in-memory monitor, but one that sees all that the engine sees."""

    def __init__(self, answers: Answers, *, project: str, stack: str) -> None:
        super().__init__(cast(Any, None))
        self._answers = answers
        self._project = project
        self._stack = stack
        self._lock = threading.Lock()
        self._known: dict[str, Registration] = {}
        self._stopped = False

    def stop(self) -> None:
        """Refuse whatever the program still asks for."""
        self._stopped = True

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 the SDK's name
        registration = self._register(request)
        answer = self._answers.resource(registration)
        if registration.custom:
            self.resources[registration.urn] = mocks.MockMonitor.ResourceRegistration(
                registration.urn, answer.id or "", dict(answer.outputs)
            )
        return resource_pb2.RegisterResourceResponse(
            urn=registration.urn, id=answer.id or "", object=values.encode(answer.outputs), unknown=answer.skipped
        )

    def ReadResource(self, request: Any) -> Any:  # noqa: N802 the SDK's name
        registration = self._register(request)
        answer = self._answers.read(registration, request.id)
        return resource_pb2.ReadResourceResponse(
            urn=registration.urn, id=answer.id or "", properties=values.encode(answer.outputs)
        )

    def Invoke(self, request: Any) -> Any:  # noqa: N802 the SDK's name
        if request.tok == "pulumi:pulumi:getResource":
            found = self.resources[values.decode(request.args)["urn"]]
            state = cast(Any, found).state  # the SDK's type says only `dict`
            answer: Mapping[str, Any] = {"urn": found.urn, "id": found.id, "state": state}
        else:
            answer = self._answers.call(request.tok, values.reveal(values.decode(request.args)))
        fields: dict[str, Any] = {"return": values.encode(answer)}  # `return` is no Python name
        return resource_pb2.ResourceInvokeResponse(**fields)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 the SDK's name
        self._answers.outputs(request.urn, values.decode(request.outputs))
        return empty_pb2.Empty()

    def _register(self, request: Any) -> Registration:
        if self._stopped:
            raise StoppedError(f"{request.name}: not begun, the run was stopped")
        registration = _registration(request, self._stack, self._project)
        with self._lock:
            if registration.urn in self._known:
                raise DuplicateUrnError(
                    f"{registration.urn} is declared twice; give one of the two {registration.type} another name"
                )
            parent = self._known.get(registration.parent or "")
            if parent is not None and registration.parent is not None:
                # The engine inherits these from the parent (pulumi: source_eval.go); protect the SDK inherits itself.
                registration = replace(
                    registration,
                    retain_on_delete=registration.retain_on_delete or parent.retain_on_delete,
                    deleted_with=registration.deleted_with or parent.deleted_with,
                )
            self._known[registration.urn] = registration
        return registration


def _registration(request: Any, stack: str, project: str) -> Registration:
    parent = request.parent or None
    common: dict[str, Any] = {
        "urn": make_urn(stack, project, parent, request.type, request.name),
        "type": request.type,
        "name": request.name,
        "parent": parent,
        "depends_on": tuple(sorted(request.dependencies)),
        "provider": request.provider or None,
    }
    if isinstance(request, resource_pb2.ReadResourceRequest):
        return Registration(custom=True, inputs=values.decode(request.properties), **common)
    return Registration(
        **common,
        custom=request.custom,
        remote=request.remote,
        inputs=values.decode(request.object),
        providers=dict(request.providers),
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        deleted_with=request.deletedWith or None,
        delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
        ignore_changes=tuple(request.ignoreChanges),
        replace_on_changes=tuple(request.replaceOnChanges),
        aliases=tuple(_alias(alias) for alias in request.aliases),
        secret_outputs=tuple(request.additionalSecretOutputs),
        import_id=request.importId or None,
    )


def _alias(alias: Any) -> str:
    if alias.WhichOneof("alias") == "urn":
        return alias.urn
    spec = alias.spec
    parts = {"name": spec.name, "type": spec.type, "parent": spec.parentUrn, "project": spec.project}
    return ",".join(f"{key}={value}" for key, value in parts.items() if value) or "no parent"


class _Engine:
    """The engine's log service."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def Log(self, request: Any) -> Any:  # noqa: N802 the SDK's name
        # engine.proto: DEBUG 0, INFO 1, WARNING 2, ERROR 3. pulumi-aws logs its own deprecations as warnings.
        if request.severity == 2 and "deprecated" not in request.message:
            self._log.warnings.append(request.message)
        elif request.severity == 3:
            self._log.errors.append(request.message)
        return empty_pb2.Empty()

    def RequirePulumiVersion(self, _request: Any) -> Any:  # noqa: N802 the SDK's name
        return empty_pb2.Empty()


RunError = pulumi.RunError
"""What the program raises for a mistake of its user: the message is all there is to show."""
