"""`mnv2`: everything that needs no ROS graph, and the way to the nodes that do."""
