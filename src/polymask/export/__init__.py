"""A finished task as a file of its own: an ONNX graph, a program of torch, or weights alone."""
