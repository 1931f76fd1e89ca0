"""What a reported study shows in dashboards: its summary run at wandb, a workspace and a report there, and a local one.

Everything is made from files of the results folder; `harness.record` tells the runs themselves.
"""
