"""Other people's test suites on the virtual device: a pytest plugin that runs each test under hostile schedules.

`plugin` is loaded by every pytest of the environment and imports nothing but pytest until a test asks for it; `item`
runs one test and judges it, `process` is what happens in the processes of a test, `served` is the process of its own
in which marked tests run.
"""
