"""The commands of README.md and docs/: found, checked, and run in one clone of the project."""
