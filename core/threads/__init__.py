"""Threads: bounded pools with cancellation, and slow calls in the background."""
