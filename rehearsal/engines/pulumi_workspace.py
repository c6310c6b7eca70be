"""The temporary world that one rehearsal's `pulumi` lives in: project copy, backend, plugins, credentials, environment.

Nothing in it is the user's: their `Pulumi.yaml` and stack file are copied, their backend, Pulumi home, AWS settings and
kubeconfig are out of sight, and all of it is removed at the end.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from rehearsal.aws.simulated import SimulatedEnvironment
from rehearsal.aws_plugin.permit import TOKEN_VARIABLE, Permit
from rehearsal.engines.contract import EngineError, EngineInputs
from rehearsal.engines.pulumi_plugins import Plugin, aws_version

_INHERITED = (
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""The user's variables that a run may see: language, temporary folder, and the way out to chart repositories."""

_AWS_STANDIN = """\
#!/bin/sh
# Stands in for the AWS CLI in a rehearsal: it hands out the local control plane's token and does nothing else.
case " $* " in
*" eks get-token "*) ;;
*) echo "the rehearsal's aws answers only 'aws eks get-token', not: aws $*" >&2; exit 2 ;;
esac
case "$KUBERNETES_EXEC_INFO" in
*client.authentication.k8s.io/v1\\"*) version=v1 ;;
*) version=v1beta1 ;;
esac
token=$(cat {token}) || exit 1
printf '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/%s",' "$version"
printf '"spec":{{}},"status":{{"token":"%s"}}}}\\n' "$token"
"""

_AWS_PLUGIN_LAUNCHER = """\
#!/bin/sh
# Starts the rehearsal's stand-in AWS provider, which checks that it runs in its own rehearsal.
PYTHONPATH={root} exec {python} -P -m rehearsal.aws_plugin {permit} "$@"
"""


class RehearsalWorkspace:
    """Makes and removes the folder; says where things are and which environment `pulumi` gets."""

    def __init__(self, inputs: EngineInputs, *, pulumi: Path, plugins: Sequence[Plugin]) -> None:
        """Write everything a run needs into a new folder of `inputs.workdir`.

        Raises:
            EngineError: the project or its stack file cannot be used.
        """
        inputs.workdir.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="pulumi-", dir=inputs.workdir)).resolve()
        self.project = self.root / "project"
        self._backend = self.root / "state"
        self._bin = self.root / "bin"
        for folder in (self.project, self._backend, self._bin, self.root / "home", self.root / "pulumi-home"):
            folder.mkdir()
        self.token = secrets.token_urlsafe(32)
        self.passphrase = secrets.token_urlsafe(32)
        self._pulumi = pulumi
        self._inputs = inputs
        try:
            aws = self._write_aws_plugin()
            self._write_aws_cli()
            self._copy_project((aws, *plugins))
            self.copy_stack_file()
        except BaseException:
            self.remove()
            raise

    def environment(self, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The whole environment of `pulumi`, the program and the plugins."""
        path = [str(self._bin), str(self._pulumi.parent), str(Path(sys.executable).parent), variables.get("PATH", "")]
        return {
            **{name: variables[name] for name in _INHERITED if name in variables},
            **self._inputs.environment,
            "PATH": os.pathsep.join(path),
            "HOME": str(self.root / "home"),
            "KUBECONFIG": str(self._inputs.kubeconfig),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_REGION": self._inputs.region,
            TOKEN_VARIABLE: self.token,
            "PULUMI_HOME": str(self.root / "pulumi-home"),
            "PULUMI_BACKEND_URL": self._backend.as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": self.passphrase,
            "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
        }

    def hide_secrets(self, text: str) -> str:
        """The text without this rehearsal's tokens and passphrase."""
        for secret in (self.token, self.passphrase, self._inputs.token):
            if secret:
                text = text.replace(secret, "<secret>")
        return text

    def remove(self) -> None:
        """Remove the folder, state and permit with it; may be called twice."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _write_aws_plugin(self) -> Plugin:
        folder = self.root / "plugins" / "aws"
        folder.mkdir(parents=True)
        environment = SimulatedEnvironment(
            cluster_endpoint=self._inputs.endpoint,
            cluster_ca_data=self._inputs.ca_data,
            account=self._inputs.account,
            region=self._inputs.region,
        )
        version = aws_version()
        permit = folder / "permit.json"
        Permit(token=self.token, backend=self._backend, version=version, environment=environment).write(permit)
        _write_script(
            folder / "pulumi-resource-aws",
            _AWS_PLUGIN_LAUNCHER.format(
                root=shlex.quote(str(Path(__file__).parents[2])),
                python=shlex.quote(sys.executable),
                permit=shlex.quote(str(permit)),
            ),
        )
        return Plugin(name="aws", version=version, folder=folder)

    def _write_aws_cli(self) -> None:
        token = self._bin / "control-plane-token"
        token.touch(mode=0o600)
        token.write_text(self._inputs.token)
        _write_script(self._bin / "aws", _AWS_STANDIN.format(token=shlex.quote(str(token))))

    def _copy_project(self, plugins: Sequence[Plugin]) -> None:
        source = self._inputs.project_dir / "Pulumi.yaml"
        project = _read_mapping(source)
        runtime = project.get("runtime")
        if (cast(dict[str, Any], runtime).get("name") if isinstance(runtime, dict) else runtime) != "python":
            raise EngineError(f"{source}: the rehearsal runs Python programs; `runtime` must be python")
        in_venv = sys.prefix != sys.base_prefix
        project["runtime"] = {
            "name": "python",
            "options": {"toolchain": "pip", **({"virtualenv": sys.prefix} if in_venv else {})},
        }
        # An absolute path keeps the program where it is, files it reads beside it included.
        main = Path(project.get("main") or ".")
        project["main"] = str((self._inputs.project_dir / main).resolve())
        project["plugins"] = {
            "providers": [
                {"name": plugin.name, "version": plugin.version, "path": str(plugin.folder)} for plugin in plugins
            ]
        }
        for elsewhere in ("backend", "stackConfigDir"):
            project.pop(elsewhere, None)
        (self.project / "Pulumi.yaml").write_text(yaml.safe_dump(project, sort_keys=False))

    def copy_stack_file(self) -> None:
        """Take the stack file over as it is now, with the encryption salt that the temporary stack got.

        Raises:
            EngineError: it cannot be read or still holds encrypted values.
        """
        copy = self.project / f"Pulumi.{self._inputs.stack}.yaml"
        salt = _read_mapping(copy).get("encryptionsalt") if copy.exists() else None
        stack = _read_mapping(self._inputs.stack_file)
        if "secure:" in self._inputs.stack_file.read_text():
            raise EngineError(
                f"{self._inputs.stack_file}: still holds `secure:` values, which a rehearsal cannot and should not "
                "read; put stand-in values in their place"
            )
        for key in ("secretsprovider", "encryptedkey", "encryptionsalt"):
            stack.pop(key, None)
        if salt is not None:
            stack["encryptionsalt"] = salt
        copy.write_text(yaml.safe_dump(stack, sort_keys=False))


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise EngineError(f"{path}: must hold a mapping")
    return cast(dict[str, Any], loaded)


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o700)
