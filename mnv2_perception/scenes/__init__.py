"""A street that the package draws itself, with exact labels; whole and as a bag."""
