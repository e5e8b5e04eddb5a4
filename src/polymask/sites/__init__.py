"""Where masks meet a network: slots on weights and units, roles, and the way back to the plain model."""
