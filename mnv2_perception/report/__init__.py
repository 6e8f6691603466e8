"""Show a recording and its results on one HTML page; needs neither ROS nor a network."""

FRAMES = 120  # default number of frames with pictures on a page
