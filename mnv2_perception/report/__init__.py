"""A run as one page: what a recording and its results show, without ROS and without a network."""

FRAMES = 120  # whose pictures are on a page, unless others are asked for
