"""Measure the accuracy and speed of models and of recorded runs."""
