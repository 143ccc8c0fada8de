"""Models: weights, and the engines that serve them."""
