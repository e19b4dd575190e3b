"""Inspection of finished runs: errors and calibration, saliency and channels, robustness and OOD detection."""
