"""AWS, declared from the Plan: network, keys, cluster, nodes, cache, identities. The way in is `infra.aws.declare`."""
