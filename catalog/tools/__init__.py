"""Scripts that write generated catalog files; they never run in a plan."""
