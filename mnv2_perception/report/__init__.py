"""A run as one page: what a recording and its results show, without ROS and without a network."""
