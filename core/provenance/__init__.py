"""What of a Git repository is the code of this project, and how it differs from the commit."""
