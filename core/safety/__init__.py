"""What keeps secrets and foreign text from doing harm: redaction, escaping, private files."""
