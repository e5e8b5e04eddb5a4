"""One page about a run or a comparison: what its folder holds, as pictures with a table behind each."""
