"""Class counting: the number of distinct classes in a set of images."""
