"""Looking into finished runs: errors and calibration, heat maps and filters, corruptions and other kinds of images."""
