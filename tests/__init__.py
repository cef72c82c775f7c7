"""The promises; what several tests use is in `helpers`."""
