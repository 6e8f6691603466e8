"""Pure functions of images, in numpy and OpenCV."""
