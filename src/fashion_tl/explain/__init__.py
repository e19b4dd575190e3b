"""What a classifier looks at: class activation maps, filters, channels and features."""
