"""The stack file as one typed object: models, loading, line-aware errors, JSON Schema and secret sources."""
