"""What a run tells while it goes: figures of every epoch, lines and loggers, and what it warns of."""
