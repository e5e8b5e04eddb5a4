"""What a run has learned, asked: which task is meant, what it is given, what it answers, what is known of it."""
