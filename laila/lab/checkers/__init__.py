"""Judges: from records of what happened to what was wrong. Pure functions, so that a saved history can be judged again.

A fault is only ever what cannot have another explanation: times are bounds (`laila.lab.clocks.Moment`), and what may
have happened without being acknowledged stays possible to the end of time.
"""
