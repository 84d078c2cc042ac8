"""A trial: clients work on a system all the time, faults strike it turn by turn, and judges say what the answers mean.

`invoking` is how one client is asked, `player` plays a workload's script on it, `turns` does the faults, `trial` ties
them together. None of it knows what the system is.
"""
