"""Git commit, tag and message of a result."""
