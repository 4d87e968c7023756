"""Divide the labelled pixels of an image by the size of the object that they belong to, as COCO does.

COCO's bounds are 32x32 and 96x96 pixels of photos of about 640x480: 0.3 % and 3 % of the image. As fractions they mean the
same in images of any size. An object is a connected region of one class.
"""

from __future__ import annotations

import numpy as np

from dataset.classes import IGNORE_INDEX, UInt8

BOUNDS = (0.003, 0.03)  # of an image's pixels: from small to medium to large
SIZES = ("0-0.3%", "0.3-3%", "3-100%")  # names, small to large


def object_sizes(labels: UInt8) -> UInt8:
    """Return the index in SIZES of the object that each pixel belongs to, (H,W) uint8; pixels without a label have 0.

    `labels` are class indices (H,W) uint8. Pixels of one class that touch, at a corner too, are one object.
    """
    from scipy.ndimage import label

    found = np.zeros(labels.shape, np.uint8)
    for index in np.unique(labels):
        if index == IGNORE_INDEX:
            continue
        regions, _ = label(labels == index, structure=np.ones((3, 3)))
        sizes = np.searchsorted(BOUNDS, np.bincount(regions.ravel()) / labels.size, side="right").astype(np.uint8)
        sizes[0] = 0  # the pixels of other classes
        found += sizes[regions]
    return found
