"""Texts as tasks: described, tokenised once, read from tables, batched by their lengths."""
