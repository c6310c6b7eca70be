"""Models behind OpenAI-compatible endpoints: one `ModelServer` a model, in one of three runtimes."""
