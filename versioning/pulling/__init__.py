"""What lake.py pull does beside writing data: no file is lost, and the model comes along."""
