"""The real Kubernetes control plane that a rehearsal runs against, on this machine, without containers or a cloud."""
