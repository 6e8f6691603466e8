"""Labelled images, read and written; no torch."""
