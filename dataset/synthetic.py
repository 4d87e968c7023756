"""The former place of `dataset.sources.synthetic`, until its last importer has moved."""

from dataset.sources.synthetic import generate_sample as generate_sample
