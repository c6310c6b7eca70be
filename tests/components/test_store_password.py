"""A changed password reaches a running store: a real server where there is one, else a stand-in for its client."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.store_password import SCRIPT

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")
CLIENT = shutil.which("valkey-cli") or shutil.which("redis-cli")

# Takes AUTH and what follows from its input like a server: passwords by their digest, a line of the file for each.
_CLIENT = r"""#!/bin/sh
users="{users}"
IFS= read -r auth
given=$(printf %s "$auth" | sed 's/^AUTH default "\(.*\)"$/\1/' | sed 's/\\\(.\)/\1/g')
digest=$(printf %s "$given" | sha256sum | cut -d ' ' -f 1)
if ! grep -qx "$digest" "$users"; then echo "WRONGPASS invalid username-password pair or user is disabled."; exit 0; fi
echo OK
while IFS= read -r line; do
  printf '%s\n' "$line" | sed 's/masterauth .*/masterauth/' >> "{users}.told"
  case "$line" in
    "ACL SETUSER default #"*) echo "${{line##*#}}" >> "$users" ;;
    "ACL SETUSER default !"*) grep -vx "${{line##*!}}" "$users" > "$users.n"; mv "$users.n" "$users" ;;
  esac
  echo OK
done
"""


class Store:
    """A server that knows one password, and the script beside it."""

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.folder, self.real = folder, real
        self.secret = folder / "password"
        self.users = folder / "users.acl"
        self.processes: list[subprocess.Popen[str]] = []
        self.port = self.copies = 0

    def start(self, password: str, *, former_seconds: int = 3600, copies: int = 0) -> None:
        self.secret.write_text(password)
        self.copies = copies
        if self.real:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            self.users.write_text(f"user default on #{digest(password)} ~* &* +@all\n")
            (self.folder / "valkey.conf").write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\naclfile {self.users}\nsave ''\n"
            )
            self.serve()
            client = f"{CLIENT} -p {self.port}"
        else:
            self.users.write_text(f"{digest(password)}\n")
            path = self.folder / "client"
            path.write_text(_CLIENT.format(users=self.users))
            path.chmod(0o755)
            client = str(path)
        self.watch(client, former_seconds)

    def serve(self) -> None:
        assert SERVER is not None
        self.processes.append(
            subprocess.Popen([SERVER, str(self.folder / "valkey.conf")], stdout=subprocess.DEVNULL, text=True)
        )
        eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def watch(self, client: str, former_seconds: int) -> None:
        variables = {
            "PASSWORD_FILE": str(self.secret),
            "MEMORY": str(self.folder),
            "CLI": client,
            "COPIES": str(self.copies),
            "FORMER_SECONDS": str(former_seconds),
            "PAUSE_SECONDS": "0.1",
        }
        self.log = self.folder / "log"
        with self.log.open("w") as log:
            self.processes.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", SCRIPT], env={**os.environ, **variables}, stdout=log, stderr=log, text=True
                )
            )
        eventually((self.folder / "former").exists)

    def accepts(self, password: str) -> bool:
        if not self.real:
            return digest(password) in self.users.read_text().split()
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            words = [b"AUTH", b"default", password.encode()]
            connection.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
            return connection.recv(100).startswith(b"+OK")

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def eventually(holds: Callable[[], bool], seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


@pytest.fixture(params=["real", "stand-in"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "real" and (SERVER is None or CLIENT is None):
        pytest.skip("no valkey-server and no redis-server on PATH")
    made = Store(tmp_path, real=request.param == "real")
    yield made
    made.end()


@pytest.mark.parametrize("changed", ["new-password", 'a "quoted" \\ one', "with $(id) and 'ticks'"])
def test_both_passwords_open_it_after_a_change(store: Store, changed: str) -> None:
    store.start("first")
    assert store.accepts("first")
    store.secret.write_text(changed)
    eventually(lambda: store.accepts(changed))
    assert store.accepts("first"), "clients have this one until they restart"
    assert not store.accepts("another")
    eventually(lambda: "takes the changed password" in store.log.read_text())
    assert changed not in store.log.read_text()


def test_the_former_one_is_forgotten_in_time(store: Store) -> None:
    store.start("first", former_seconds=1)
    store.secret.write_text("second")
    eventually(lambda: store.accepts("second"))
    eventually(lambda: not store.accepts("first"))
    assert store.accepts("second")
    eventually(lambda: "a former password is forgotten" in store.log.read_text())


def test_one_that_comes_back_stays(store: Store) -> None:
    store.start("first", former_seconds=2)
    store.secret.write_text("second")
    eventually(lambda: store.accepts("second"))
    eventually(lambda: store.log.read_text().count("takes the changed") == 1)
    store.secret.write_text("first")
    eventually(lambda: not store.accepts("second"))
    assert store.accepts("first")


def test_a_script_that_restarts_still_knows_what_the_store_takes(store: Store) -> None:
    store.start("first")
    store.secret.write_text("second")
    eventually(lambda: store.log.read_text().count("takes the changed") == 1)
    store.processes[-1].kill()
    store.secret.write_text("third")
    client = f"{CLIENT} -p {store.port}" if store.real else str(store.folder / "client")
    store.watch(client, 3600)
    eventually(lambda: store.accepts("third"))


def test_a_server_that_restarts_in_its_pod_takes_the_changed_one(store: Store) -> None:
    if not store.real:
        pytest.skip("the stand-in is no server")
    store.start("first", copies=1)
    store.secret.write_text("second")
    eventually(lambda: store.log.read_text().count("takes the changed") == 1)
    store.processes[0].kill()
    store.processes[0].wait()
    store.serve()
    assert store.accepts("second")
    assert 'masterauth "second"' in (store.folder / "valkey.conf").read_text()


@pytest.mark.parametrize(("copies", "told"), [(0, False), (1, True)])
def test_only_copies_are_told_it_in_the_clear(store: Store, copies: int, told: bool) -> None:
    """A copy follows its primary by the password itself; the configuration that keeps it lies on the volume."""
    store.start("first", copies=copies)
    store.secret.write_text("second")
    eventually(lambda: store.log.read_text().count("takes the changed") == 1)
    kept = store.folder / ("valkey.conf" if store.real else "users.acl.told")
    assert ("masterauth" in kept.read_text()) is told


def test_a_store_that_refuses_is_said_and_tried_again(store: Store) -> None:
    store.start("first")
    (store.folder / "accepted").write_text("wrong")
    store.secret.write_text("second")
    eventually(lambda: "the store says: WRONGPASS" in store.log.read_text())
    assert not store.accepts("second")
    (store.folder / "accepted").write_text("first")
    eventually(lambda: store.accepts("second"))
