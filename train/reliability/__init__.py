"""What the end of a training measures of its best model: its temperature, and what its images are like."""
