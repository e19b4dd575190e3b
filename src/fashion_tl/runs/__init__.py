"""A run from its configuration to its record, searches and repeated seeds."""
