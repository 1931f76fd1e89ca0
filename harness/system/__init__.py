"""What every room needs of the machine: errors for people, whole files, child processes, the checkout's place."""
