"""Recordings through the models, without a ROS graph: results as the nodes publish them."""
