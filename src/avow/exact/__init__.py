"""One integer meaning for a model: programs, their specification, traces and the referee of single operators."""
