"""The gRPC service of the stand-in AWS provider."""

# ruff: noqa: N802, ARG002 - the protocol sets the method names and their parameters

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2_grpc
from pulumi.runtime.proto import provider_pb2 as rpc
from pulumi.runtime.rpc import UNKNOWN

from rehearsal.aws import functions, simulated
from rehearsal.aws_plugin.diff import diff_response
from rehearsal.aws_plugin.wire import each_leaf, from_struct, to_struct


class StandInAws(provider_pb2_grpc.ResourceProviderServicer):
    """Answers the engine as AWS would, from the simulated account; see `rehearsal.aws.simulated`.

    Secrets and outputs are declared as not accepted: the engine then unwraps them before a call
    and marks them again after.
    """

    def __init__(
        self,
        *,
        version: str,
        environment: simulated.SimulatedEnvironment,
        engine: engine_pb2_grpc.EngineStub | None = None,
    ) -> None:
        """Answer as the given version for the given account; `engine` takes warnings for the user."""
        self._version = version
        self._environment = environment
        self._engine = engine
        self._warned: set[str] = set()
        self._replaced: dict[str, str] = {}  # the old id of what is being replaced, by URN

    # --- the plugin and its configuration --------------------------------------------------------------------------
    def GetPluginInfo(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def Handshake(
        self, request: rpc.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> rpc.ProviderHandshakeResponse:
        return rpc.ProviderHandshakeResponse()

    def GetSchema(self, request: rpc.GetSchemaRequest, context: grpc.ServicerContext) -> rpc.GetSchemaResponse:
        return rpc.GetSchemaResponse(schema=json.dumps({"name": "aws", "version": self._version}))

    def GetMapping(self, request: rpc.GetMappingRequest, context: grpc.ServicerContext) -> rpc.GetMappingResponse:
        return rpc.GetMappingResponse()

    def GetMappings(self, request: rpc.GetMappingsRequest, context: grpc.ServicerContext) -> rpc.GetMappingsResponse:
        return rpc.GetMappingsResponse()

    def CheckConfig(self, request: rpc.CheckRequest, context: grpc.ServicerContext) -> rpc.CheckResponse:
        return rpc.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: rpc.DiffRequest, context: grpc.ServicerContext) -> rpc.DiffResponse:
        # Resources carry their region as an input of their own, so a provider's new region replaces nothing by itself.
        return diff_response(from_struct(request.old_inputs), from_struct(request.news), replacing=())

    def Configure(self, request: rpc.ConfigureRequest, context: grpc.ServicerContext) -> rpc.ConfigureResponse:
        region = from_struct(request.args).get("region")
        if isinstance(region, str) and region != UNKNOWN:
            self._environment = replace(self._environment, region=region)
        return rpc.ConfigureResponse(supportsPreview=True)

    def Cancel(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        return Empty()  # every answer is immediate, so there is nothing under way to cancel

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> Empty:
        return _refuse(context, "the stand-in AWS provider is started by its rehearsal and attaches to no other engine")

    # --- resources -------------------------------------------------------------------------------------------------
    def Check(self, request: rpc.CheckRequest, context: grpc.ServicerContext) -> rpc.CheckResponse:
        token = _type(request.urn)
        if not simulated.is_aws(token):
            return _refuse(context, f"{token} is no AWS resource")
        self._warn_if_unknown(token, request.urn)
        return rpc.CheckResponse(inputs=request.news)

    def Diff(self, request: rpc.DiffRequest, context: grpc.ServicerContext) -> rpc.DiffResponse:
        token = _type(request.urn)
        old, new = from_struct(request.old_inputs), from_struct(request.news)
        named = simulated.resource_types().get(token)
        fixed_name = named.name if named else None
        replacing = simulated.replacing_changes(token, old, new)
        if replacing:
            self._replaced[request.urn] = request.id
        return diff_response(
            old,
            new,
            replacing=replacing,
            # As the real provider does: two resources of one fixed name cannot exist at once.
            delete_first=fixed_name is not None and fixed_name in new and old.get(fixed_name) == new[fixed_name],
        )

    def Create(self, request: rpc.CreateRequest, context: grpc.ServicerContext) -> rpc.CreateResponse:
        token, name = _type(request.urn), _name(request.urn)
        inputs = from_struct(request.properties)
        if request.preview:
            planned = simulated.preview(token, name, inputs, unknown=UNKNOWN, environment=self._environment)
            return rpc.CreateResponse(properties=to_struct(planned))
        # AWS draws everything of a replacement anew, but for what is a name: what refers to it sees the change.
        old_id = self._replaced.pop(request.urn, None)
        physical_id, outputs = simulated.create(token, name, inputs, environment=self._environment)
        for again in (f"{name}-r1", f"{name}-r2"):
            if physical_id == old_id:
                physical_id, outputs = simulated.create(token, again, inputs, environment=self._environment)
        return rpc.CreateResponse(id=physical_id, properties=to_struct(outputs))

    def Update(self, request: rpc.UpdateRequest, context: grpc.ServicerContext) -> rpc.UpdateResponse:
        old, new = from_struct(request.olds), from_struct(request.news)
        outputs = simulated.update(
            _type(request.urn), _name(request.urn), new, previous_outputs=old, environment=self._environment
        )
        if request.preview:
            outputs = _as_planned(outputs, new, old)
        return rpc.UpdateResponse(properties=to_struct(outputs))

    def Delete(self, request: rpc.DeleteRequest, context: grpc.ServicerContext) -> Empty:
        return Empty()

    def Read(self, request: rpc.ReadRequest, context: grpc.ServicerContext) -> rpc.ReadResponse:
        if request.properties.fields:  # a refresh: nothing but the program changes the simulated account
            return rpc.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)
        token, inputs = _type(request.urn), from_struct(request.inputs)
        self._warn_if_unknown(token, request.urn)
        made, outputs = simulated.create(token, _name(request.urn), inputs, environment=self._environment)
        found = _renamed(outputs, made, request.id)
        return rpc.ReadResponse(id=request.id, properties=to_struct(found), inputs=request.inputs)

    def Invoke(self, request: rpc.InvokeRequest, context: grpc.ServicerContext) -> rpc.InvokeResponse:
        try:
            answer = functions.invoke(request.tok, from_struct(request.args), environment=self._environment)
        except functions.UnknownFunction as error:
            return _refuse(context, str(error))
        return rpc.InvokeResponse(**{"return": to_struct(answer)})  # pyright: ignore[reportArgumentType] - `return` is a keyword

    def _warn_if_unknown(self, token: str, urn: str) -> None:
        simulated.computed_outputs(token)
        if self._engine is None or token not in simulated.unknown_types or token in self._warned:
            return
        self._warned.add(token)
        self._engine.Log(  # pyright: ignore[reportUnknownMemberType] - the protocol's stubs name an unknown module
            engine_pb2.LogRequest(
                severity=engine_pb2.WARNING,
                urn=urn,
                message=f"the rehearsal does not know {token}; its outputs are generic "
                "(teach rehearsal/aws/resource_types.yaml what AWS answers)",
            )
        )


def _as_planned(outputs: Mapping[str, Any], inputs: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """What a preview may say of an update: what AWS would change, or derives from an unknown input, is unknown."""

    def hidden(value: Any) -> Any:
        return UNKNOWN if isinstance(value, str) and UNKNOWN in value else value

    return {
        key: UNKNOWN if key not in inputs and key in previous and value != previous[key] else each_leaf(value, hidden)
        for key, value in outputs.items()
    }


def _renamed(outputs: Mapping[str, Any], old_id: str, new_id: str) -> dict[str, Any]:
    """The outputs of a resource under another id: ARNs and the like carry it too."""
    return {
        key: each_leaf(value, lambda leaf: leaf.replace(old_id, new_id) if isinstance(leaf, str) else leaf)
        for key, value in outputs.items()
    }


def _type(urn: str) -> str:
    """The resource's own type: the URN carries the chain of its parents' types before it."""
    return urn.split("::", 3)[2].rsplit("$", 1)[-1]


def _name(urn: str) -> str:
    return urn.split("::", 3)[3]


def _refuse(context: grpc.ServicerContext, message: str) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
    raise AssertionError("abort() raises")
