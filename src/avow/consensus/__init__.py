"""Who orders transactions: one process by itself (`embedded`), in the formats of the distributed engine."""
