"""Pure functions on tensors: the mathematics of masks, with no model and no state."""
