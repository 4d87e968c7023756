"""Georeferenced images: predictions keep coordinates, and files of any size are predicted in windows. Needs rasterio."""
