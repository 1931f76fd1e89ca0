"""What every room needs of the machine: errors for people, whole files, child processes, and where the checkout lies."""
