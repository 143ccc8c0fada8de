"""What fits: the memory of each GPU, to whom it is promised, and how many requests it serves. Pure."""
