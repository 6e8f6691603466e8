"""`mnv2`: all commands that need no ROS graph, and access to the nodes that do."""
