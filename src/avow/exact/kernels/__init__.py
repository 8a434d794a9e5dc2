"""Fast machines for exact programs. Nodes and authors import them; chain and referees never do: their meaning is exact/specification."""
