"""A changed password reaches a running Valkey: a container beside the server watches the mounted Secret.

A store reads its password when its pod starts, and a restart would lose what it keeps in memory. So the server is told
at run time: it takes the new password beside the former one, which clients still have, and forgets the former one a
day later. Clients read theirs when they start; `python -m ops rotate` restarts them meanwhile.
"""

from __future__ import annotations

from typing import Any

from components._pods import confined
from planner.plan import ValkeyPlan

_SECRET = "/valkey-users-secret"  # noqa: S105 - where the chart mounts it
_MEMORY = "/etc/valkey"
"""The chart's tmpfs, which holds the server's ACL file too; gone with the pod."""
_CA = "/tls-ca"
_USER = 1000
"""The server's own in the chart, so that both read what the other writes."""

# Passwords go through pipes and files of one's own alone: arguments are seen by who lists processes. The server's file
# of users is saved, because a server that restarts in its pod reads it again; so is its configuration where it has
# copies, for the password by which one follows its primary: that file lies on the volume, and has it in the clear.
# Answers are compared as a whole: valkey-cli ends with 0 whatever the server says.
SCRIPT = r"""
umask 077
accepted="$MEMORY/accepted" former="$MEMORY/former"
digest() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
quoted() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }
tell() {
  answer=$({ printf 'AUTH default "%s"\n' "$(quoted "$1")"; printf '%s\n' "$2"; } | $CLI 2>&1)
  [ "$answer" = "$(printf '%s\n' "$2" | sed 's/.*/OK/; 1i OK')" ] && return 0
  echo "the store says: $(printf %s "$answer" | grep -v '^OK$' | head -n 1)" >&2
  return 1
}
# What init.sh of the chart has just given the server.
[ -s "$accepted" ] || cat "$PASSWORD_FILE" > "$accepted"
touch "$former"
while :; do
  now=$(cat "$PASSWORD_FILE") known=$(cat "$accepted")
  if [ -n "$now" ] && [ "$now" != "$known" ]; then
    follow=""
    [ "$COPIES" = 0 ] || follow="
CONFIG SET masterauth \"$(quoted "$now")\"
CONFIG REWRITE"
    if tell "$known" "ACL SETUSER default #$(digest "$now")
ACL SAVE$follow"; then
      echo "$(( $(date +%s) + FORMER_SECONDS )) $(digest "$known")" >> "$former"
      printf %s "$now" > "$accepted"
      echo "the store takes the changed password, and the former one for $FORMER_SECONDS s more"
    fi
  fi
  while read -r until hash; do
    [ "$(date +%s)" -ge "$until" ] || continue
    # One that has come back meanwhile stays.
    if [ "$hash" = "$(digest "$(cat "$accepted")")" ] || tell "$(cat "$accepted")" "ACL SETUSER default !$hash
ACL SAVE"; then
      grep -v " $hash\$" "$former" > "$former.left"
      mv "$former.left" "$former"
      echo "a former password is forgotten"
    fi
  done < "$former"
  sleep "$PAUSE_SECONDS"
done
"""


def container(plan: ValkeyPlan) -> dict[str, Any]:
    """The container, for the chart's `extraContainers`; its volumes are the chart's own."""
    cli = f"valkey-cli --tls --cacert {_CA}/{plan.ca_key} -p {plan.port}"
    variables = {
        "PASSWORD_FILE": f"{_SECRET}/{plan.password.key}",
        "MEMORY": _MEMORY,
        "CLI": cli,
        "COPIES": str(plan.replicas),
        "FORMER_SECONDS": str(plan.former_password_seconds),
        "PAUSE_SECONDS": "5",
    }
    return {
        "name": "password",
        "image": plan.image,
        "command": ["/bin/sh", "-c", SCRIPT],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {**confined(), "runAsNonRoot": True, "runAsUser": _USER},
        "volumeMounts": [
            {"name": "valkey-users-secret", "mountPath": _SECRET, "readOnly": True},
            {"name": "valkey-acl", "mountPath": _MEMORY},
            # Not the server's key, which lies beside it.
            {"name": f"{plan.name}-tls", "mountPath": f"{_CA}/{plan.ca_key}", "subPath": plan.ca_key, "readOnly": True},
        ],
    }
