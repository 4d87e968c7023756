"""Train on a commit that is larger than the disk: its images and masks pass through a cache of bounded size."""
