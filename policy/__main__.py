"""The policy pack: `pulumi preview --policy-pack policy`."""

from __future__ import annotations

import sys
from pathlib import Path

# Pulumi runs this folder as a program of its own; our modules are found from the project's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pulumi_policy import PolicyPack

from policy.crossguard import policies

PolicyPack(name="inference-platform-guard-rails", policies=policies())
