"""Prediction of images, folders and video; serving and export."""
