//! What is particular to the shared database: fences, takeovers, cut connections, plans.
