"""The ladder keeper: keeps groups of nodes whole on their pool's capacity ladder (docs/adr/0005).

A controller of one replica in a bare Python image. Each round lists nodes and pods, decides (`ladder_decisions`),
writes what it means to do into its Lease, and does it. The Lease is changed under its resource version, so of two
keepers one loses and does nothing.

Environment: KUBERNETES_SERVICE_HOST and _PORT as in every pod, or KEEPER_API_URL, KEEPER_CA_FILE and KEEPER_TOKEN_FILE.
"""

from __future__ import annotations

import argparse
import http.server
import json
import logging
import os
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.scripts.ladder_actions import Action, Cordon, Evict, Memory, Tell, Uncordon, memory_of
from components.scripts.ladder_decisions import Decision, decide, partly_on
from components.scripts.ladder_world import (
    HOLD_ANNOTATION,
    Hold,
    Json,
    Orders,
    World,
    moment,
    orders_of,
    without_clock,
    world_of,
    written,
)

NAME = "ladder-keeper"
MEMORY_ANNOTATION = "inference-platform/ladder-keeper-memory"
STATUS = "cluster-autoscaler-status"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LEASE_ROUNDS = 6
"""Another keeper takes over after so many rounds without a sign of life."""
_REQUEST_SECONDS = 15
_SHORTEST_WAIT = 0.5
"""However much time is compressed, the API server must keep up."""
_REPEAT_SECONDS = 600
"""The same is not told twice within this time."""

log = logging.getLogger(NAME)


class ApiError(Exception):
    """The API server refused; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """The API server, as much of it as the keeper needs."""

    def __init__(self, url: str, ca_file: Path, token_file: Path) -> None:
        self._url = url
        self._token_file = token_file
        self._context = ssl.create_default_context(cafile=str(ca_file))

    def call(self, method: str, path: str, body: Json = None, *, kind: str = "application/json") -> Json:
        """One request; raises ApiError where it is refused, OSError where nobody answers."""
        request = urllib.request.Request(  # noqa: S310 - the URL is https, of the cluster
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            # The kubelet renews the token in its file.
            headers={"Authorization": f"Bearer {self._token_file.read_text().strip()}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS, context=self._context) as answer:  # noqa: S310
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")[:300]) from None

    def find(self, path: str) -> Json:
        """An object, or None where there is none."""
        try:
            return self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


class Keeper:
    """Looks, decides and acts, again and again."""

    def __init__(self, api: Api, orders: Orders, *, identity: str) -> None:
        self.last_round = 0.0
        self.metrics = ""
        self._api = api
        self._orders = orders
        self._identity = identity
        self._told: dict[tuple[str, str], float] = {}
        self._moves: dict[str, int] = {}
        self._lease = f"/apis/coordination.k8s.io/v1/namespaces/{orders.namespace}/leases"

    def round(self) -> None:
        """One round; raises ApiError and OSError where the API server does not play along."""
        lease = self._lease_object()
        if lease is None:
            return
        orders, now = self._orders, time.time()
        world = world_of(orders, now, self._items("/api/v1/nodes"), self._pods(), self._status())
        annotations: Json = lease["metadata"].get("annotations") or {}
        memory = memory_of(json.loads(annotations.get(MEMORY_ANNOTATION) or "{}"))
        decision = decide(world, orders, memory)
        if not self._write_down(lease, decision.memory):
            return
        for action in decision.actions:
            self._do(action, world)
        self.last_round = now
        self.metrics = self._exposition(world, decision)

    def _items(self, path: str) -> list[Json]:
        return self._api.call("GET", path)["items"]

    def _pods(self) -> list[Json]:
        namespaces = sorted({model.namespace for model in self._orders.models})
        return [pod for namespace in namespaces for pod in self._items(f"/api/v1/namespaces/{namespace}/pods")]

    def _status(self) -> str:
        """What cluster-autoscaler says of its groups; nothing before it has said a word."""
        found = self._api.find(f"/api/v1/namespaces/{self._orders.autoscaler_namespace}/configmaps/{STATUS}")
        data: dict[str, str] = {} if found is None else found.get("data", {})
        return data.get("status", "")

    def _lease_object(self) -> Json:
        """The Lease where it is ours to take, None where another keeper is at work."""
        lease = self._api.find(f"{self._lease}/{NAME}")
        if lease is None:
            return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": {}}
        spec: Json = lease.get("spec") or {}
        seen = moment(spec.get("renewTime")) or 0.0
        fresh = time.time() - seen < _LEASE_ROUNDS * max(1.0, self._orders.interval_seconds)
        if spec.get("holderIdentity") not in {None, "", self._identity} and fresh:
            log.info("%s keeps the ladder", spec["holderIdentity"])
            return None
        return lease

    def _write_down(self, lease: Json, memory: Memory) -> bool:
        """Renew the Lease with the memory in it; False where somebody else was faster."""
        metadata: Json = lease["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), MEMORY_ANNOTATION: json.dumps(asdict(memory))}
        lease["spec"] = {**lease["spec"], "holderIdentity": self._identity, "renewTime": written(time.time())}
        try:
            if "resourceVersion" in metadata:
                self._api.call("PUT", f"{self._lease}/{NAME}", lease)
            else:
                self._api.call("POST", self._lease, lease)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    def _do(self, action: Action, world: World) -> None:
        try:
            if isinstance(action, Cordon):
                hold = Hold(why=action.why, group=action.group, at=world.now).text()
                self._mark(action.node, hold, cordoned=True)
            elif isinstance(action, Uncordon):
                self._mark(action.node, None, cordoned=False)
            elif isinstance(action, Evict):
                self._evict(action)
            else:
                self._tell(action, world)
        except ApiError as error:
            # Gone, changed meanwhile, or held by a disruption budget: the next round looks again. An error of the
            # server (an eviction under two budgets is one) is of this action; other groups do not wait for it.
            if error.status not in {404, 409, 429} and error.status < 500:
                raise
            log.info("%s: %s", action, error)

    def _mark(self, node: str, hold: str | None, *, cordoned: bool) -> None:
        change = {"metadata": {"annotations": {HOLD_ANNOTATION: hold}}, "spec": {"unschedulable": cordoned or None}}
        self._api.call("PATCH", f"/api/v1/nodes/{node}", change, kind="application/merge-patch+json")
        log.info("%s %s %s", "cordoned" if cordoned else "uncordoned", node, hold or "")

    def _evict(self, action: Evict) -> None:
        path = f"/api/v1/namespaces/{action.namespace}/pods/{action.pod}/eviction"
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": action.pod, "namespace": action.namespace},
            # A pod of the same name that came meanwhile is left alone.
            "deleteOptions": {"preconditions": {"uid": action.uid}},
        }
        self._api.call("POST", path, eviction)
        log.info("evicted %s/%s", action.namespace, action.pod)

    def _tell(self, tell: Tell, world: World) -> None:
        """A log line and an Event about the group's leader, or about its workload where it has no pod now."""
        if world.now - self._told.get((tell.group, tell.reason), 0.0) < min(
            _REPEAT_SECONDS, 60 * self._orders.interval_seconds
        ):
            return
        self._told[tell.group, tell.reason] = world.now
        self._moves[tell.reason] = self._moves.get(tell.reason, 0) + 1
        log.info("%s: %s: %s", tell.group, tell.reason, tell.message)
        namespace, workload, _ = tell.group.split("/")
        group = world.groups.get(tell.group)
        pod = min(group.pods, key=lambda one: (not one.leader, one.name)) if group else None
        about: Json = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod.name if pod else workload}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{NAME}-", "namespace": namespace},
            "involvedObject": {**about, "uid": pod.uid} if pod else about,
            "type": "Warning" if tell.warning else "Normal",
            "reason": tell.reason,
            "message": f"{tell.group}: {tell.message}",
            "source": {"component": NAME},
            "reportingComponent": NAME,
            "reportingInstance": self._identity,
            "firstTimestamp": written(world.now)[:19] + "Z",
            "lastTimestamp": written(world.now)[:19] + "Z",
            "count": 1,
        }
        self._api.call("POST", f"/api/v1/namespaces/{namespace}/events", event)

    def _exposition(self, world: World, decision: Decision) -> str:
        """Prometheus' text format."""
        orders = self._orders
        lines = [f"ladder_keeper_last_loop_timestamp_seconds {self.last_round:.0f}"]
        for group in world.groups.values():
            pool = orders.pool(group.model.pool)
            rung = world.rung_of(group)
            if rung is not None:
                labels = f'pool="{pool.name}",model="{group.model.name}",group="{group.key}",rung="{rung}"'
                lines.append(f"ladder_keeper_group_rung_position{{{labels}}} {pool.position(rung)}")
        for pool in orders.pools:
            partly = [g for g in world.groups.values() if g.model.pool == pool.name and partly_on(world, orders, g)]
            held = [node for rung in pool.rungs for node in world.on(rung.name) if node.hold]
            lines.append(f'ladder_keeper_stalled_groups{{pool="{pool.name}"}} {len(partly)}')
            lines.append(f'ladder_keeper_held_nodes{{pool="{pool.name}"}} {len(held)}')
            for rung in pool.rungs:
                labels = f'pool="{pool.name}",rung="{rung.name}"'
                lines.append(f"ladder_keeper_rung_backing_off{{{labels}}} {int(rung.name in world.backing_off)}")
                if rung.ends is not None:
                    lines.append(f"ladder_keeper_rung_ends_timestamp_seconds{{{labels}}} {rung.ends:.0f}")
        lines += [f'ladder_keeper_told_total{{reason="{name}"}} {count}' for name, count in sorted(self._moves.items())]
        lines.append(f"ladder_keeper_move_under_way {int(decision.memory.move is not None)}")
        return "\n".join(lines) + "\n"


def serve_metrics(keeper: Keeper, port: int, *, late_seconds: float) -> None:
    """`/metrics`, and `/healthz`, which fails when no round has ended for `late_seconds`."""
    began = time.time()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            alive = time.time() - max(keeper.last_round, began) < late_seconds
            status = 200 if self.path == "/metrics" or alive else 503
            body = keeper.metrics if self.path == "/metrics" else "ok" if alive else "no round ended lately"
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's names
            """A probe every few seconds is no news."""

    server = http.server.ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=Path, required=True, help="the plan's orders, JSON")
    parser.add_argument("--no-metrics", action="store_true", help="open no port")
    parser.add_argument("--time-scale", type=float, default=1.0, help="planned seconds in a real one, in a rehearsal")
    parser.add_argument(
        "--calendar",
        choices=("clock", "open", "closed"),
        default="clock",
        help="windows by the clock; in a rehearsal always open or never, with blocks that neither begin nor end",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    api = Api(
        os.environ.get("KEEPER_API_URL") or f"https://{address}:{port}",
        Path(os.environ.get("KEEPER_CA_FILE") or _ACCOUNT / "ca.crt"),
        Path(os.environ.get("KEEPER_TOKEN_FILE") or _ACCOUNT / "token"),
    )
    orders = orders_of(options.orders.read_text(), time_scale=options.time_scale)
    if options.calendar != "clock":
        orders = without_clock(orders, windows_open=options.calendar == "open")
    keeper = Keeper(api, orders, identity=os.environ.get("HOSTNAME") or f"{NAME}-{os.getpid()}")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    if not options.no_metrics:
        serve_metrics(keeper, orders.port, late_seconds=12 * orders.interval_seconds)
    while not stopped.is_set():
        try:
            keeper.round()
        except (ApiError, OSError, ValueError, KeyError) as error:
            # Never end: the next round may go well, and the probe and an alert tell of rounds that do not.
            log.warning("round failed: %s: %s", type(error).__name__, error)
        stopped.wait(max(_SHORTEST_WAIT, orders.interval_seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
