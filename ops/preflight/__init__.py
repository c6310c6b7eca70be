"""`preflight`: what stands between a plan and its first token in this account, and what is at risk in money."""
