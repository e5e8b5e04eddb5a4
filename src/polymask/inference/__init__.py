"""Which task is this? A copy of the network, asked under mixtures of all masks, or under each."""
