"""Accuracy and time of models and of recorded runs."""
