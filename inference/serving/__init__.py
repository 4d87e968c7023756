"""Limits on what clients of `infer.py --serve` can hold: connections, uploads, and unread responses."""
