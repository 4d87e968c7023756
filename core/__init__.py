"""Errors, localization, console, files, processes and Git; no knowledge of segmentation or servers."""

from core.machine import python_version

python_version.require()  # first: the modules below use the syntax of that version

from core.machine import openmp  # noqa: E402

openmp.configure()  # here, so that it precedes every import of torch
