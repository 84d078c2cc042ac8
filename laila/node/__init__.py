"""The node: a daemon around one policy, with its configuration and its status port."""
