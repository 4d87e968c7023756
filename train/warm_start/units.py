"""Keep what a value of an image means to the weights of a model, where new data has another range of values."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation.preprocess import Normalisation

Range = tuple[float, float]
STD, MEAN = (1e-3, 10.0), 10.0  # limits of a normalisation that still tells values apart; MEAN: of its absolute value


def convert_units(known: Normalisation, before: Sequence[Range], now: Sequence[Range]) -> Normalisation | None:
    """Return the normalisation of weights in units of another range of values, so that equal samples stay equal inputs.

    Samples of more than 8 bits are scaled by the range of the training data, which grows with each brighter image; mean
    and standard deviation are in units of that range. `before` and `now` have an entry for each channel, or one for all;
    without one (8 bits), units do not change. None: the ranges differ so much that the weights know no such values.
    """
    if not before or not now or tuple(before) == tuple(now):
        return known
    channels = range(len(known.mean))
    pairs = [(_of_channel(before, channel), _of_channel(now, channel)) for channel in channels]
    means, stds = [], []
    for (low, high), (new_low, new_high), mean, std in (
        (*pair, known.mean[channel], known.std[channel]) for channel, pair in zip(channels, pairs, strict=True)
    ):
        extent, new_extent = high - low, new_high - new_low
        means.append((mean * extent + low - new_low) / new_extent)
        stds.append(std * extent / new_extent)
    if not all(STD[0] <= std <= STD[1] for std in stds) or not all(abs(mean) <= MEAN for mean in means):
        return None
    return Normalisation(tuple(means), tuple(stds))


def _of_channel(ranges: Sequence[Range], channel: int) -> Range:
    return ranges[0] if len(ranges) == 1 else ranges[channel]
