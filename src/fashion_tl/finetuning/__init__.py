"""What trains when, at which learning rate."""
