"""The composite GitHub Action: action.yml and its script."""
