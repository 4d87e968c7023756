"""Formats whose masks are images: every pixel keeps its class."""
