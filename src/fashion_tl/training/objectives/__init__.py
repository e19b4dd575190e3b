"""What training minimises: losses of classes, and terms that are added to them."""
