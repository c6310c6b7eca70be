"""The stand-in for AWS on this machine: the whole stack against a real Kubernetes control plane."""
