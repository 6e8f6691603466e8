"""Read and write labelled images, without torch."""
