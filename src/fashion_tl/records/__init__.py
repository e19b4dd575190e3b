"""Reading and writing the records of runs; needs neither torch nor Lightning."""
