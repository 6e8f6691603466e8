"""Run the live nodes on one machine with a replayed bag, and draw the results."""
