"""A process of its own that is no rank: it joins no process group."""

import os


def answer(number, queue):
    queue.put(os.getpid() * number)
