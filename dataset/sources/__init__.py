"""Where data comes from that the user does not have: the sample set and public data sets."""
