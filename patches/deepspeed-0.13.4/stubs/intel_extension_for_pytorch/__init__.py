"""Stands in for a package that DeepSpeed 0.13.4 imports on a CPU and does not use here."""
