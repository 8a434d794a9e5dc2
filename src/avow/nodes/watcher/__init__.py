"""The watcher: runs optimistic answers again, and makes who cheated pay.

states (what becomes of a statement: one table) · sampling (which are checked) · journal (what survives a crash) · gateways (openings and
demands over HTTP) · settlements (what the chain shows and takes) · check (one run beside another, no network) · watcher (all of it, in
order).
"""
