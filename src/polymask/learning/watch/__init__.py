"""How a run watches its finished tasks: one copy that answers as each of them, and how far their logits drift."""
