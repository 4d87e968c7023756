"""Developer tools: message catalogue and generated documentation."""
