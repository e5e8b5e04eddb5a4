"""From what a run measured to what people read: metrics and tables."""
