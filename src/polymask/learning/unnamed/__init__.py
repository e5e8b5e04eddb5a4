"""Learning without task identities: what tells tasks apart, and the loop that asks it."""
