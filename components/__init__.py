"""Kubernetes: one capability a file or folder, declared from the Plan."""
