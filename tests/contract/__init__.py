"""The contract suite: what holds for every method, on every backbone, under every optimizer."""
