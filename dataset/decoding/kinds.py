"""Tell why a file is not read as an image, from its name."""

from __future__ import annotations

from core.i18n import tr

# Of formats that hold pixels; infer.py reads videos where --input names them.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),  # cameras
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".mgz"),  # medicine
    *(".svs", ".ndpi", ".mrxs", ".czi", ".lif", ".nd2", ".vsi"),  # microscopes
    *(".ecw", ".sid", ".img", ".vrt", ".exr", ".hdr", ".pfm"),
    *(".npy", ".npz", ".mat", ".h5", ".hdf5"),
    *(".psd", ".psb", ".xcf", ".kra", ".svg", ".svgz", ".eps", ".ai", ".pdf"),
    *(".ico", ".icns", ".tga", ".pcx", ".sgi", ".ras", ".dds", ".qoi"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
)


def unread_suffix(name: str) -> str:
    """Return the suffix, such as '.nii.gz', of a format that holds pixels but is not read; '' for every other name."""
    lower = name.lower()
    return max((suffix for suffix in UNREAD_SUFFIXES if lower.endswith(suffix)), key=len, default="")


def why_unread(name: str) -> str:
    """Return the reason why a file with this name, which lacks the suffix of an image, is not read."""
    suffix = unread_suffix(name)
    if suffix:
        return tr("{suffix} is not read: convert it to PNG, TIFF or JPEG", suffix=suffix)
    if "." not in name.rpartition("/")[2]:
        return tr("no file suffix")
    return tr("not an image file")
