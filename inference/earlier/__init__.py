"""What an output directory holds from earlier calls."""
