"""Learning a stream: the loop, comparisons of methods, the command line."""
