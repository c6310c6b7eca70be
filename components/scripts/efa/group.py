"""How the pods of a group tell each other what they found: JSON lines over one connection of each to the leader."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any, cast

Json = dict[str, Any]
_LINE_LIMIT = 1 << 20


class AloneError(Exception):
    """The other pods of the group did not come."""


class PeerLostError(Exception):
    """Another pod of the group went away half-way: not a finding about EFA."""


@dataclass
class Group:
    """All pods of a group, over one connection of each to the leader; every round gives all pods what each said."""

    rank: int
    size: int
    leader: str
    port: int
    _links: dict[int, socket.socket] = field(default_factory=dict[int, socket.socket])

    def meet(self, mine: Json, deadline: float) -> list[Json]:
        """The first round: waits for all pods.

        Raises:
            AloneError: they did not come before the deadline.
        """
        self.close()
        if self.rank:
            return self._join(mine, deadline)
        family, dual = (socket.AF_INET6, True) if socket.has_dualstack_ipv6() else (socket.AF_INET, False)
        said: dict[int, Json] = {0: mine}
        with socket.create_server(("", self.port), family=family, dualstack_ipv6=dual) as server:
            server.settimeout(1.0)
            while len(said) < self.size:
                if time.monotonic() > deadline:
                    missing = sorted(set(range(self.size)) - set(said))
                    raise AloneError(f"pods {missing} of the group's {self.size} have not come")
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    self._forget_the_lost(said)
                    continue
                self._welcome(link, said)
        return self._tell_all(said)

    def round(self, mine: Json, seconds: float) -> list[Json]:
        """Another round.

        Raises:
            PeerLostError: a pod went away.
        """
        if self.rank:
            _send(self._links[0], mine)
            return _receive(self._links[0], seconds)["all"]
        said = {0: mine}
        for rank, link in self._links.items():
            said[rank] = _receive(link, seconds)
        return self._tell_all(said)

    def close(self) -> None:
        """Ends all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _join(self, mine: Json, deadline: float) -> list[Json]:
        while time.monotonic() < deadline:
            try:
                self._links[0] = _kept_alive(socket.create_connection((self.leader, self.port), timeout=10))
                _send(self._links[0], {"rank": self.rank, **mine})
                return _receive(self._links[0], max(1.0, deadline - time.monotonic()))["all"]
            except (OSError, PeerLostError):
                self.close()
                time.sleep(1)
        raise AloneError(f"the group's leader {self.leader} does not answer")

    def _welcome(self, link: socket.socket, said: dict[int, Json]) -> None:
        try:
            hello = _receive(link, 10)
            rank = int(hello["rank"])
        except (PeerLostError, KeyError, ValueError, TypeError):
            link.close()
            return
        if not 0 < rank < self.size:
            link.close()
            return
        if rank in self._links:  # its pod was made anew
            self._links[rank].close()
        self._links[rank], said[rank] = _kept_alive(link), hello

    def _forget_the_lost(self, said: dict[int, Json]) -> None:
        for rank, link in list(self._links.items()):
            link.setblocking(False)
            try:
                gone = link.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                link.close()
                del self._links[rank], said[rank]

    def _tell_all(self, said: dict[int, Json]) -> list[Json]:
        everyone = [said[rank] for rank in range(self.size)]
        for link in self._links.values():
            _send(link, {"all": everyone})
        return everyone


def _kept_alive(link: socket.socket) -> socket.socket:
    """Notices within two minutes that the other node is gone without a word."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)):
        link.setsockopt(socket.IPPROTO_TCP, option, value)
    return link


def _send(link: socket.socket, message: Json) -> None:
    link.settimeout(30)
    try:
        link.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        raise PeerLostError(str(error)) from error


def _receive(link: socket.socket, seconds: float) -> Json:
    link.settimeout(seconds)
    raw = bytearray()
    try:
        while not raw.endswith(b"\n"):
            part = link.recv(65536)
            if not part or len(raw) > _LINE_LIMIT:
                raise PeerLostError("the connection ended")
            raw += part
        message: Any = json.loads(raw)
    except (OSError, ValueError) as error:
        raise PeerLostError(str(error)) from error
    if not isinstance(message, dict):
        raise PeerLostError("not a message of the gate")
    return cast(Json, message)
