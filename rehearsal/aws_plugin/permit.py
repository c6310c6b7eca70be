"""What lets the stand-in provider start, and keeps it out of every run that is no rehearsal.

The Pulumi CLI starts whatever executable of the right name it finds. A stand-in that answered "created" to a real
user's `up` would leave a state full of resources that do not exist, so it starts only for the rehearsal that made it.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rehearsal.aws.simulated import SimulatedEnvironment

TOKEN_VARIABLE = "INFERENCE_PLATFORM_REHEARSAL_TOKEN"  # noqa: S105 - the variable's name
"""The environment variable that carries the one-time token from the engine through the CLI to the plugin."""


class NotARehearsal(Exception):  # noqa: N818 - says what was found
    """The stand-in was started by something that is not the rehearsal it was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave to run for one rehearsal, written beside the plugin's launcher.

    Attributes:
        token: Must come back in `TOKEN_VARIABLE`; a new one for each rehearsal.
        backend: The temporary folder of the `file://` backend whose state the plugin may fill.
        version: The provider version to announce: that of the installed `pulumi-aws`.
        environment: The simulated account, region and cluster to answer for.
    """

    token: str
    backend: Path
    version: str
    environment: SimulatedEnvironment

    def write(self, path: Path) -> None:
        """Write the permit, readable by its owner alone."""
        path.touch(mode=0o600)
        path.write_text(json.dumps({**asdict(self), "backend": str(self.backend)}))

    @classmethod
    def read(cls, path: Path) -> Permit:
        """Read what `write` wrote.

        Raises:
            NotARehearsal: there is no permit, as after the rehearsal's end.
        """
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise NotARehearsal("the rehearsal that this stand-in belonged to has ended") from None
        return cls(
            token=raw["token"],
            backend=Path(raw["backend"]),
            version=raw["version"],
            environment=SimulatedEnvironment(**raw["environment"]),
        )

    def check(self, variables: Mapping[str, str] = os.environ) -> None:
        """Refuse unless the process was started by this rehearsal.

        Raises:
            NotARehearsal: the token or the backend is not this rehearsal's.
        """
        if not hmac.compare_digest(variables.get(TOKEN_VARIABLE, "").encode(), self.token.encode()):
            raise NotARehearsal(f"{TOKEN_VARIABLE} does not carry the token of this rehearsal")
        url = urlsplit(variables.get("PULUMI_BACKEND_URL", ""))
        if url.scheme != "file" or not self.backend.is_dir() or Path(unquote(url.path)) != self.backend:
            raise NotARehearsal("the backend is not the temporary file:// backend of this rehearsal")
