"""Data sets as the hub and its library give them."""
