"""The contract of every method, and the life of a task from begin to end."""
