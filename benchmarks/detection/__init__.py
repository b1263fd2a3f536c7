"""Detection quality on labelled real series under a frozen protocol, peers in the same table; see README.md here."""
