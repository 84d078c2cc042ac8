"""Replicas that agree: one linearizable register per name, over directories, peers and pools, without a leader."""
