"""Find the images and masks of a data directory, and which mask belongs to which image, from relative paths alone."""
