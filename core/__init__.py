"""Errors, localization, console, files, processes and Git; no knowledge of segmentation or servers."""

from core.machine import openmp

openmp.configure()  # here, so that it precedes every import of torch
