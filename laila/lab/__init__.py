"""The kit: it starts real nodes, works on them from the inside, breaks them, and gives a verdict with
evidence.

Topologies are data (`topology`), drivers start them (`drivers`), a client program works beside each node
(`client`), checks judge (`checks`), and a run leaves a folder with a report (`run`, `report`). Nothing
below imports this package, and importing it loads no driver: container libraries come with `pip install
laila-kit[lab]` and are loaded when used.
"""
