"""`ufo train mine/source/birds.yaml`: sources of the user's own, for which the rest is chosen."""
