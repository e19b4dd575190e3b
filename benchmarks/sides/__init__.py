"""One program for each side of a pair; each runs alone and prints one line of JSON."""
