"""From any artifact to everything related to it."""
