"""The stand-in `pulumi-resource-aws`: the provider that the real Pulumi engine talks to in a rehearsal.

It speaks the engine's own gRPC protocol (from the `pulumi` package) and answers from `rehearsal.aws`, the same
simulated account that the in-process engine and the unit tests use. It reaches no AWS endpoint, holds no credentials.
"""
