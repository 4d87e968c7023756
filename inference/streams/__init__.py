"""Prediction of videos and cameras. Needs PyAV."""
