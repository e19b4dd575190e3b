"""Data: one LightningDataModule, its sources, and what happens to a batch."""
