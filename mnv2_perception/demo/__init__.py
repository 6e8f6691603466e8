"""The live graph on one machine, and its pictures."""
