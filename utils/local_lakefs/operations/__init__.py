"""The operations of lakeFS's API on a store: references, staged changes, commits and merges."""
