"""What --reproduce reads of a run: its record, which servers hold, and what vouches for it."""
