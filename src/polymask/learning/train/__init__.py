"""A run as it goes: tasks in turn, phases, epochs, steps."""
