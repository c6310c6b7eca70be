"""Start the stand-in provider: `python -m rehearsal.aws_plugin <permit file> <engine address>`.

The engine passes its own flags too (log settings), which mean nothing here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2_grpc

from rehearsal.aws_plugin.permit import NotARehearsal, Permit
from rehearsal.aws_plugin.provider import StandInAws

_MESSAGE_BYTES = 400 * 1024 * 1024
"""As large a message as the engine itself accepts (`sdk/go/common/util/rpcutil`)."""


def main(arguments: list[str]) -> int:
    """Serve until the engine ends this process, or the engine itself is gone. Returns the exit code."""
    permit_file, *rest = arguments
    try:
        permit = Permit.read(Path(permit_file))
        permit.check()
    except NotARehearsal as error:
        sys.stderr.write(
            "This pulumi-resource-aws is the stand-in of a rehearsal and touches no AWS account.\n"
            f"It does not run here: {error}.\n"
            "Remove it from where Pulumi looks; the real one comes by `pulumi plugin install resource aws`.\n"
        )
        return 3
    address = next((item for item in reversed(rest) if not item.startswith("-")), "")
    options = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address)) if address else None
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=options)
    service = StandInAws(version=permit.version, environment=permit.environment, engine=engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.stdout.write(f"{port}\n")  # how the engine learns where to connect
    sys.stdout.flush()
    server.wait_for_termination()
    return 0


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
