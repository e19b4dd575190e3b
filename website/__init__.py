"""The documentation's site: what is written from the code when it is built, and the check of the pages' commands."""
