"""Draw streets and halls with exact labels, as images or as a bag."""
