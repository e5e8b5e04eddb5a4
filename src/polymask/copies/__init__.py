"""Copies of any network: made, run, compared, and what its modules keep beside their tensors."""
