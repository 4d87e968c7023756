"""The parts of the lakeFS client."""
