"""Simulated time: real DeepSpeed traced at real dimensions on meta tensors, then a cost model's clock over the trace.

Every number that comes out of this package has evidence level `simulated-time`.
"""
