"""Images and masks: classes, layouts, splits, reading, validation and sample data."""
