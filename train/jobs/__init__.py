"""What one training does, from the data to the report of its result."""
