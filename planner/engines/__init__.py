"""Command lines and environments of the engines, for the versions that the catalog pins."""
