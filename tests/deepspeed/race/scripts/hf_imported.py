"""The same through a module of its own: nothing here names the library."""

from hf_trainer import main

main()
