"""TensorRT: the cascade as its network definition, plans built of it, and running them."""
