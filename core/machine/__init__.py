"""What this process may use of the machine, and how OpenMP uses it."""
